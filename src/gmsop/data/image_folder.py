"""Read a folder of images file by file, for sets that are used too rarely to be worth packing."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmsop.data.class_names import label_of_folders
from gmsop.data.image_files import image_classes, image_folders, split_folder
from gmsop.data.preprocess import Preprocess
from gmsop.errors import ConfigError, DataError
from gmsop.utils.text import printable


class FolderDataset:
    """Serves the labelled images of `path/CLASS/*` like a `PackedDataset`, and decodes each when it is asked for.

    Args:
        path: the folder; if it has a sub-folder of this split, under any of its usual names, that sub-folder is read.
        split: "train", "val", ...
        image_size: S; images are resized to S x S, their aspect ratio ignored.
        class_names: the model's class names, in its order. The folder may lack some of them, and may name them in the
            ways of `label_of_folders`. None: the sorted names of the folder's own classes.
        filter_name: box, bilinear, bicubic or lanczos.
        folder_names: the folder of each of the model's classes, where it is named otherwise than the class.
        on_error: "stop" at an image that cannot be read, or "skip" it: its label is then `unread(index)`.
        exif_orientation: turn images as their EXIF data says.
        preprocess: how images are read, in place of `image_size`, `filter_name` and `exif_orientation`.

    Raises:
        DataError: there are no images, or a class is not among `class_names`.
        ConfigError: `on_error` is neither; `folder_names` are not as many as `class_names`.
    """

    def __init__(
        self,
        path: str | Path,
        split: str,
        image_size: int,
        class_names: Sequence[str] | None = None,
        filter_name: str = "box",
        folder_names: Sequence[str] | None = None,
        on_error: str = "stop",
        exif_orientation: bool = True,
        preprocess: Preprocess | None = None,
    ) -> None:
        if on_error not in ("stop", "skip"):
            raise ConfigError(f"on_error is 'stop' or 'skip', got {on_error!r}")
        if folder_names is not None and class_names is not None and len(folder_names) != len(class_names):
            raise ConfigError(f"{len(folder_names)} names of folders for a model of {len(class_names)} classes")
        self.path, self.split, self.on_error = Path(path), split, on_error
        squashed = Preprocess(image_size, (), (), filter_name, exif_orientation)
        self.preprocess = squashed if preprocess is None else preprocess
        self.image_size = self.preprocess.image_size
        inner = split_folder(self.path, split)
        known = folder_names or class_names
        files = image_classes(inner) if known is None else image_folders(inner)
        if not files:
            raise DataError(f"{path}: neither a packed set nor a folder of images (CLASS/*.jpg, {split}/CLASS/*.jpg)")
        try:
            label: Mapping[str, int] = {name: i for i, name in enumerate(files)}
            if known is not None:
                label = label_of_folders(files, known, bool(folder_names))
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        self.class_names = list(class_names or folder_names or files)
        pairs = sorted(
            ((label[name], file) for name, found in files.items() for file in found), key=lambda pair: pair[0]
        )
        self.files = [file for _, file in pairs]
        self.labels: NDArray[np.int64] = np.array([label for label, _ in pairs], np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        images, labels = self.batch(np.array([index]))
        return images[0], int(labels[0])

    def batch(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return images (k, S, S, 3) and labels (k,).

        Raises:
            DataError: an image cannot be read, and `on_error` is "stop"; the text names it.
        """
        labels = self.labels[rows]
        images = np.zeros((len(rows), self.image_size, self.image_size, 3), np.uint8)
        for place, row in enumerate(rows.tolist()):
            try:
                images[place] = self._decode(row)
            except DataError:
                if self.on_error == "stop":
                    raise
                labels[place] = unread(row)
        return images, labels

    def reason(self, index: int) -> str:
        """Return why an image cannot be read."""
        try:
            self._decode(index)
        except DataError as error:
            return str(error)
        return f"{printable(self.files[index])}: can be read now"

    def _decode(self, row: int) -> NDArray[np.uint8]:
        file = self.files[row]
        try:
            return self.preprocess.read(file)
        except OSError as error:
            raise DataError(f"{printable(file)}: {error.strerror or error}") from error


def unread(index: int) -> int:
    """Return the label of an image that cannot be read: below zero, and it tells which image it is."""
    return -1 - index
