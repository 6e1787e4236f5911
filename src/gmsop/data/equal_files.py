"""Find image files that are equal, and warn of those that a model would both learn from and be judged on."""

import hashlib
import os
import warnings
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import numpy as np

from gmsop.data.labelled_images import LabelledImages
from gmsop.errors import DataWarning
from gmsop.utils.text import printable

MOST = 100_000
"""Of more images nothing is compared: to look at so many files would take minutes on a slow disk."""
END = 4096
"""Bytes at the end of files of equal size that are compared before the whole."""


def equal_files(files: Sequence[Path]) -> list[list[int]]:
    """Return the numbers of files that are equal byte by byte, a list per kind. What cannot be read equals nothing."""
    groups = [list(range(len(files)))]
    for mark in (_size, _end, _whole):  # each looks only at those that the one before could not tell apart
        groups = [part for group in groups for part in _divided(group, files, mark)]
    return groups


def _divided(group: list[int], files: Sequence[Path], mark: Callable[[Path], Hashable]) -> list[list[int]]:
    parts: dict[Hashable, list[int]] = {}
    for number in group:
        try:
            parts.setdefault(mark(files[number]), []).append(number)
        except OSError:
            continue
    return [part for part in parts.values() if len(part) > 1]


def _size(file: Path) -> int:
    return file.stat().st_size


def _end(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - END))
        return stream.read()


def _whole(file: Path) -> bytes:
    mark = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            mark.update(block)
    return mark.digest()


def warn_of_equal_files(train: LabelledImages, test: LabelledImages | None, stacklevel: int = 3) -> None:
    """Warn of files that are equal: in both sets, or with two labels.

    Args:
        test: None: every image of `train` is tested on in its turn.
    """
    sets = [train] if test is None else [train, test]
    found = [images.files() for images in sets]
    if None in found or sum(map(len, sets)) > MOST:
        return
    names = [name for images in sets for name in images.names]
    labels = np.concatenate([images.labels for images in sets])
    groups = equal_files([file for files in found for file in files or ()])
    two = [group for group in groups if len(set(labels[group].tolist())) > 1]
    both = groups if test is None else [group for group in groups if group[0] < len(train) <= group[-1]]
    said = []
    if both and test is None:
        count = sum(len(group) - 1 for group in both)
        said.append(f"{count:,} are there more than once, so that a test image may be one to learn from, too")
    elif both:
        count = sum(number >= len(train) for group in both for number in group)
        said.append(f"{count:,} to judge on are training images, too: the error is too small")
    if two:
        said.append(f"{len(two):,} have two different labels")
    if said:
        example = (two or both)[0]
        first, last = printable(names[example[0]]), printable(names[example[-1]])
        text = f"{printable(str(train.path))}: equal images: {'; '.join(said)} ({first} and {last}, for one)"
        warnings.warn(text, DataWarning, stacklevel=stacklevel)
