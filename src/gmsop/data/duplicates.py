"""Find images of a packed set that are equal in every pixel, and say what that means for training on it."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MARK_SIZE = 16
"""Bytes of a mark."""


class Equal(NamedTuple):
    """Counts images that are equal to another of the set in every pixel."""

    train: int
    """Images of train beside the first of each kind."""
    val: int
    """Images of val that stand in train, too."""
    other_label: int
    """Images of both that have another label than the first of their kind."""


def mark_images(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a checksum of each image, (k, S, S, 3) to (k, 16)."""
    marks = [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=MARK_SIZE).digest() for image in images]
    return np.frombuffer(b"".join(marks), np.uint8).reshape(-1, MARK_SIZE)


def equal_groups(marks: NDArray[np.uint8]) -> list[list[int]]:
    """Return the numbers of the images that are equal, a list per kind, both in order."""
    whole = np.ascontiguousarray(marks).view(f"V{MARK_SIZE}").ravel()
    _, kind, counts = np.unique(whole, return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts[kind] > 1)
    groups: dict[int, list[int]] = {}
    for number in several.tolist():
        groups.setdefault(int(kind[number]), []).append(number)
    return list(groups.values())


def count_equal(groups: Sequence[Sequence[int]], labels: NDArray[np.int64], train: int) -> Equal:
    """Count the images of `equal_groups`.

    Args:
        labels: of all images, train's first.
        train: number of images of train.
    """
    in_train = [[number for number in group if number < train] for group in groups]
    return Equal(
        sum(max(0, len(numbers) - 1) for numbers in in_train),
        sum(len(group) - len(numbers) for group, numbers in zip(groups, in_train, strict=True) if numbers),
        sum(int(labels[number] != labels[group[0]]) for group in groups for number in group),
    )


def in_words(equal: Equal) -> str:
    """Say it in a line; "" if no image is equal to another."""
    parts = [f"{equal.val:,} images of val stand in train, too"] if equal.val else []
    parts += [f"{equal.train:,} stand in train again"] if equal.train else []
    parts += [f"{equal.other_label:,} have another label than the image that they equal"] if equal.other_label else []
    return "; ".join(parts)
