"""Read a folder of images file by file, for sets that are used too rarely to be worth packing."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmsop.data.images import EXTENSIONS, decode_rgb
from gmsop.errors import DataError
from gmsop.utils.progress import progress_bar
from gmsop.utils.walk import walk


class FolderDataset:
    """Serves the labelled images of `path/CLASS/*` like a `PackedDataset`, and decodes each when it is asked for.

    Args:
        path: the folder; if it has a sub-folder named `split`, that sub-folder is read.
        image_size: S; images are resized to S x S, their aspect ratio ignored.
        class_names: the model's class names, in its order; the folder may lack some of them. None: the sorted names of
            the folder's own classes.
        filter_name: box, bilinear, bicubic or lanczos.

    Raises:
        DataError: there are no images, or a class is not among `class_names`.
    """

    def __init__(
        self,
        path: str | Path,
        split: str,
        image_size: int,
        class_names: Sequence[str] | None = None,
        filter_name: str = "box",
    ) -> None:
        self.path, self.split, self.image_size = Path(path), split, image_size
        inner = self.path / split
        files = image_classes(inner if inner.is_dir() else self.path)
        if not files:
            raise DataError(f"{path}: neither a packed set nor a folder of images (CLASS/*.jpg, {split}/CLASS/*.jpg)")
        self.class_names = list(class_names or files)
        if unknown := sorted(set(files) - set(self.class_names)):
            raise DataError(f"{path}: the model knows no class named {', '.join(unknown[:5])}")
        pairs = [(file, self.class_names.index(name)) for name, found in files.items() for file in found]
        self.labels: NDArray[np.int64] = np.array([label for _, label in pairs], np.int64)
        self.images = _Decoded([file for file, _ in pairs], image_size, filter_name)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        return self.images[np.array([index])][0], int(self.labels[index])


class _Decoded:
    """Behaves like the image array that the loaders index: `images[rows]` is (rows, S, S, 3) uint8."""

    def __init__(self, files: list[str], size: int, filter_name: str) -> None:
        self.files, self.size, self.filter_name = files, size, filter_name
        self.nbytes = len(files) * size * size * 3

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([self._decode(self.files[row]) for row in rows])

    def _decode(self, file: str) -> NDArray[np.uint8]:
        try:
            return decode_rgb(Path(file), self.size, self.filter_name)
        except DataError as error:
            raise DataError(f"{file}: {error}") from error


Files = dict[str, list[str]]
"""Paths by class name. Paths are strings, because a million path objects would take 0.4 GiB."""


def image_classes(folder: Path, strict: bool = False, progress: bool = False) -> Files:
    """Return the image files of each class (sub-folder), in torchvision's order.

    A sub-folder without images is no class; with `strict` it is an error. Hidden sub-folders are skipped. `progress`
    shows a bar.

    Raises:
        DataError: a folder cannot be read; with `strict`, a sub-folder has no images.
    """
    found: Files = {}
    empty = []
    children = sorted(folder.iterdir()) if folder.is_dir() else []
    with progress_bar(progress) as bar:
        for child in bar.track(children, description=f"listing {folder.name}"):
            if child.is_dir() and not child.name.startswith("."):
                files = [
                    f"{inner}{os.sep}{name}"
                    for inner, names in sorted(walk(child, _refuse))
                    for name in sorted(names)
                    if Path(name).suffix.lower() in EXTENSIONS
                ]
                if files:
                    found[child.name] = files
                else:
                    empty.append(child.name)
    if strict and found and empty:  # leaving them out silently would shift the labels of all later classes
        kinds = " ".join(sorted(EXTENSIONS))
        raise DataError(f"{folder}: no image ({kinds}) in {', '.join(empty[:10])}; remove what is no class")
    return found


def _refuse(error: OSError) -> None:
    """Raise a DataError for a folder that cannot be read: without it the labels of all later classes would shift."""
    raise DataError(f"{error.filename}: {error.strerror}") from error
