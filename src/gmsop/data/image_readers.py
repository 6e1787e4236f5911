"""Read one image of many by its number, from files, a packed set or another reader; processes can be given a reader."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmsop.data.images import decode_image, file_content
from gmsop.data.packed import PackedDataset
from gmsop.errors import DataError
from gmsop.utils.text import printable


class ImageReader(Protocol):
    """Reads images by their numbers."""

    def image(self, index: int) -> Image.Image:
        """Return an image in RGB, at the size it has.

        Raises:
            DataError: it cannot be read; the text names it.
        """

    def content(self, index: int) -> bytes:
        """Return the stored bytes of an image."""


class ImageFiles:
    """Reads image files.

    Their paths are kept as bytes in one array: a process that is forked would copy the memory of a list of a million
    texts, bit by bit, since Python counts references in them.
    """

    def __init__(self, files: Sequence[str], exif_orientation: bool) -> None:
        encoded = [file.encode("utf-8", "surrogateescape") for file in files]
        self._text = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)])
        self.exif_orientation = exif_orientation

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        start, end = self._ends[index : index + 2]
        return Path(self._text[start:end].tobytes().decode("utf-8", "surrogateescape"))

    def image(self, index: int) -> Image.Image:
        path = self.path(index)
        try:
            return decode_image(path, self.exif_orientation)
        except DataError as error:
            raise DataError(f"{printable(str(path))}: {error}") from error
        except OSError as error:
            raise DataError(f"{printable(str(path))}: {error.strerror or error}") from error

    def content(self, index: int) -> bytes:
        return file_content(self.path(index))


class PackedImages:
    """Reads the images of packed sets, one set after the other."""

    def __init__(self, sets: Sequence[PackedDataset]) -> None:
        self.sets = list(sets)
        self._starts = [0, *accumulate(map(len, sets))]

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        which = bisect_right(self._starts, index) - 1
        return self.sets[which].images[index - self._starts[which]]

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self._pixels(index))

    def content(self, index: int) -> bytes:
        return self._pixels(index).tobytes()


class SomeImages:
    """Reads the images of another reader that have the numbers `rows` (n,) there."""

    def __init__(self, reader: ImageReader, rows: NDArray[np.int64]) -> None:
        self.reader, self.rows = reader, rows

    def image(self, index: int) -> Image.Image:
        return self.reader.image(int(self.rows[index]))

    def content(self, index: int) -> bytes:
        return self.reader.content(int(self.rows[index]))
