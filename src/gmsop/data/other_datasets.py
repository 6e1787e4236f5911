"""Serve other libraries' datasets of images and labels as gmsop's own: torchvision's, Hugging Face's, anybody's."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from gmsop.data.images import upright_rgb
from gmsop.data.preprocess import Preprocess
from gmsop.errors import DataError, DataWarning

IMAGES, LABELS = ("image", "img"), ("label", "labels", "fine_label")
"""What the columns are called, in Hugging Face's datasets."""


class OtherDataset:
    """Wraps a dataset whose items are (image, label), or a mapping with an "image" or "img" and a "label".

    Images are Pillow's, pixels (H, W, 3) uint8, or tensors (3, H, W) uint8; they are prepared as `preprocess` says.

    Args:
        dataset: with `__getitem__` and `__len__`, or to be gone through.
        preprocess: how images become the model's.
        class_names: the model's, in its order. The dataset's own names (torchvision's `classes`, Hugging Face's
            features, the folders of timm's reader; those of what a `Subset` or `ConcatDataset` is made of), if it has
            them, are looked up there. A dataset without names is taken to number its classes as the model does, with a
            warning.
        classes: how many the model tells apart.

    Raises:
        DataError: its classes are not the model's; an item is no such pair, or an image is not pixels.
    """

    def __init__(self, dataset: Any, preprocess: Preprocess, class_names: Sequence[str] | None, classes: int) -> None:
        self.dataset, self.preprocess = dataset, preprocess
        self.path, self.split = Path(type(dataset).__name__), "the dataset"
        own = _names(dataset)
        known = list(class_names) if class_names else None
        if known and own is None:
            text = f"{self.path} names no classes, or changes its labels: they are taken for the model's own numbers"
            warnings.warn(text, DataWarning, stacklevel=4)
        self.class_names = known or own or [str(i) for i in range(classes)]
        self._places: NDArray[np.int64] | None = None
        if known and own and own != known:
            if missing := [name for name in own if name not in known]:
                raise DataError(f"{self.path} has a class {missing[0]!r}, which the model does not know")
            self._places = np.array([known.index(name) for name in own])
        self._classes = len(own) if own else classes
        streamed = isinstance(dataset, IterableDataset)  # which has a __getitem__ that only raises
        self.has_length = not streamed and hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")

    def __len__(self) -> int:
        return len(self.dataset) if self.has_length else 1  # it is not known before the end

    def batch(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return images (k, S, S, 3) and labels (k,)."""
        return self._stacked([self.dataset[row] for row in rows.tolist()], rows.tolist())

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through a dataset without length; yield images (b, S, S, 3) uint8 and labels (b,)."""
        items, number = iter(self.dataset), 0
        while found := list(islice(items, size)):
            images, labels = self._stacked(found, range(number, number + len(found)))
            number += len(found)
            yield torch.from_numpy(images), torch.from_numpy(labels)

    def _stacked(self, items: Sequence[Any], rows: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        pairs = [self._pair(item, row) for item, row in zip(items, rows, strict=True)]
        return np.stack([image for image, _ in pairs]), np.array([label for _, label in pairs], np.int64)

    def _pair(self, item: Any, row: int) -> tuple[NDArray[np.uint8], int]:
        where = f"{self.path}, item {row}"
        if isinstance(item, Mapping):
            image = next((item[key] for key in IMAGES if key in item), None)
            label = next((item[key] for key in LABELS if key in item), None)
            if image is None or label is None:
                raise DataError(f"{where}: has {', '.join(map(str, item))}; expected image and label")
        elif isinstance(item, tuple | list) and len(item) == 2:
            image, label = item
        else:
            raise DataError(f"{where}: expected (image, label), got a {type(item).__name__}")
        try:
            number = int(label)
        except (TypeError, ValueError):
            raise DataError(f"{where}: the label {label!r} is no number") from None
        if not 0 <= number < self._classes:
            raise DataError(f"{where}: label {number}, of {self._classes} classes")
        number = number if self._places is None else int(self._places[number])
        return self.preprocess.fit(_image(image, where, self.preprocess.exif_orientation)), number


def _image(image: Any, where: str, turned: bool) -> Image.Image:
    if isinstance(image, Image.Image):
        return upright_rgb(image, turned)
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.dim() == 3 and image.shape[0] == 3:
        return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return Image.fromarray(image)
    kind = f"{getattr(image, 'dtype', type(image).__name__)} {tuple(getattr(image, 'shape', ()))}"
    raise DataError(
        f"{where}: an image of {kind}: give images as they are (Pillow's, or uint8), without a transform: they are "
        "prepared as the model's description says"
    )


def _names(dataset: Any) -> list[str] | None:
    """Return the names of a dataset's classes, if it has them, or if what it is made of has.

    Raises:
        DataError: it is put together of datasets with different classes.
    """
    if getattr(dataset, "target_transform", None) is not None:
        return None  # the names are those of other labels
    if isinstance(names := getattr(dataset, "classes", None), list | tuple):
        return list(map(str, names))
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        names = next((getattr(features[key], "names", None) for key in LABELS if key in features), None)
        if names:
            return list(names)
    numbers = getattr(getattr(dataset, "reader", None), "class_to_idx", None)  # timm's ImageDataset
    if isinstance(numbers, Mapping) and sorted(numbers.values()) == list(range(len(numbers))):
        return [str(name) for name in sorted(numbers, key=lambda name: numbers[name])]
    if (inner := getattr(dataset, "dataset", None)) is not None:  # PyTorch's Subset
        return _names(inner)
    parts = getattr(dataset, "datasets", None)  # PyTorch's ConcatDataset
    if isinstance(parts, list | tuple) and parts:
        found = [_names(part) for part in parts]
        if any(each != found[0] for each in found):
            raise DataError(f"{type(dataset).__name__}: its parts have different classes; evaluate each of them")
        return found[0]
    return None
