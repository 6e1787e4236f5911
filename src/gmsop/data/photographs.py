"""Serve photographs of any size as squares, each decoded and transformed when it is asked for."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from gmsop.data.image_folder import unread
from gmsop.data.labelled_images import LabelledImages
from gmsop.data.transforms import Transform
from gmsop.errors import DataError
from gmsop.utils.text import printable

NEAREST = 100
"""Images that are tried in place of one that cannot be read."""


class Photographs:
    """Serves labelled images as squares of uint8 pixels, like a `PackedDataset`.

    What a random transform draws follows from seed, epoch and number of the image, whichever process reads it, so that
    a run can go on anywhere, in any number of processes, as if it had not been stopped.

    Args:
        images: where they are.
        split: what to call them: "train" or "val".
        transform: from an image in RGB to (S, S, 3) uint8.
        image_size: S.
        seed: of a random transform; None: the transform is not random.
        on_error: "stop" at an image that cannot be read, or "skip" it. In training the next that can be read then takes
            its place, so that batches keep their size; in evaluation its label becomes `unread(index)`.
    """

    def __init__(
        self,
        images: LabelledImages,
        split: str,
        transform: Transform,
        image_size: int,
        seed: int | None = None,
        on_error: str = "stop",
    ) -> None:
        self.path: Path = images.path
        self.split, self.transform, self.image_size = split, transform, image_size
        self.seed, self.on_error = seed, on_error
        self.labels: NDArray[np.int64] = images.labels
        self.class_names = list(images.class_names)
        self.reader = images.reader
        self.replaced: list[int] = []
        """Of the last batch: images that cannot be read, in whose place others stand."""

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: NDArray[np.int64], epoch: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return images (k, S, S, 3) and labels (k,).

        Raises:
            DataError: an image cannot be read, and `on_error` is "stop"; or none near it can.
        """
        labels, self.replaced = self.labels[rows], []
        images = np.zeros((len(rows), self.image_size, self.image_size, 3), np.uint8)
        for place, row in enumerate(rows.tolist()):
            try:
                images[place] = self._square(row, epoch)
            except DataError:
                if self.on_error == "stop":
                    raise
                if self.seed is None:
                    labels[place] = unread(row)
                else:
                    images[place], labels[place] = self._next(row, epoch)
                    self.replaced.append(row)
        return images, labels

    def _square(self, row: int, epoch: int) -> NDArray[np.uint8]:
        image = self.reader.image(row)
        if self.seed is None:
            return self.transform(image)
        with drawing_from(self.seed, epoch, row):
            return self.transform(image)

    def _next(self, row: int, epoch: int) -> tuple[NDArray[np.uint8], int]:
        """Return the next image that can be read, and its label."""
        for step in range(1, min(NEAREST, len(self))):
            other = (row + step) % len(self)
            try:
                return self._square(other, epoch), int(self.labels[other])
            except DataError as error:
                last = error
        raise DataError(f"{printable(str(self.path))}: {NEAREST} images in a row cannot be read; the last: {last}")

    def reason(self, index: int) -> str:
        """Return why an image cannot be read."""
        try:
            self.reader.image(index)
        except DataError as error:
            return str(error)
        return f"image {index}: can be read now"


@contextmanager
def drawing_from(*place: int) -> Iterator[None]:
    """Seed the generators of Python, NumPy and PyTorch by these numbers.

    They are put back at the end, but for processes that only read images, where nobody else draws.
    """
    only_reads = get_worker_info() is not None
    if not only_reads:
        before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    random.seed(repr(place))
    np.random.seed(random.getrandbits(32))
    torch.default_generator.manual_seed(random.getrandbits(63))
    try:
        yield
    finally:
        if not only_reads:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.random.set_rng_state(before[2])
