"""Images from what timm reads besides folders: tar files, Hugging Face datasets, WebDataset shards, torchvision's sets.

Their names are timm's: `photos.tar`, `hfds/NAME`, `hfids/NAME` (streamed), `wds/NAME`, `tfds/NAME`, `torch/NAME`.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm.data
from numpy.typing import NDArray
from PIL import Image

from gmsop.data.images import decode_image, upright_rgb
from gmsop.data.labelled_images import LabelledImages
from gmsop.errors import DataError
from gmsop.utils.text import printable

STREAMS = ("hfids", "wds", "tfds")
"""Prefixes of sources that give one image after the other, and none by its number."""
PREFIXES = (*STREAMS, "hfds", "torch")
_TIMM: Any = timm.data  # timm.data does not say what it exports


def is_timm_source(name: str) -> bool:
    """Return whether timm, not gmsop, reads a source of this name."""
    return prefix_of(name) in PREFIXES or (name.lower().endswith(".tar") and Path(name).is_file())


def is_stream(name: str) -> bool:
    """Return whether a source gives one image after the other, and none by its number."""
    return prefix_of(name) in STREAMS


def prefix_of(name: str) -> str:
    """Return what stands before the first slash of a name, in small letters; "" without a slash."""
    before, slash, _ = name.partition("/")
    return before.lower() if slash else ""


def _create(name: str, root: str | None, split: str, **more: Any) -> Any:
    """Make timm's dataset.

    Raises:
        DataError: a library is missing, there is no such set or split, or it cannot be read.
    """
    is_tar = prefix_of(name) not in PREFIXES
    arguments = {"name": "", "root": name, "cache_tarinfo": False} if is_tar else {"name": name, "root": root}
    try:
        return _TIMM.create_dataset(**arguments, split=split, **more)
    except ImportError as error:
        package = {"hfds": "datasets", "hfids": "datasets", "tfds": "tensorflow-datasets"}.get(prefix_of(name), name)
        raise DataError(f"{printable(name)}: needs `pip install {package}` ({error})") from error
    except Exception as error:  # whatever the libraries behind timm say of what they do not find
        hint = "; `pip install webdataset`" if "install webdataset" in str(error) else ""
        where = f" in {root}" if root else ""
        raise DataError(
            f"{printable(name)}{where}, split {split}: timm cannot open it ({_line(error)}){hint}"
        ) from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


class TimmImages:
    """Reads the images of a timm dataset that knows them by their numbers, or of one of torchvision's."""

    def __init__(self, dataset: Any, names: Sequence[str], exif_orientation: bool) -> None:
        self.dataset, self.exif_orientation = dataset, exif_orientation
        self.names, self._process = names, os.getpid()

    def image(self, index: int) -> Image.Image:
        try:
            found = self._found(index)
            if isinstance(found, Image.Image):
                return found.convert("RGB")
            return decode_image(found.read(), self.exif_orientation)
        except (DataError, OSError) as error:
            raise DataError(f"{printable(self.names[index])}: {error}") from error

    def content(self, index: int) -> bytes:
        found = self._found(index)
        return found.convert("RGB").tobytes() if isinstance(found, Image.Image) else bytes(found.read())

    def _found(self, index: int) -> Any:
        reader = getattr(self.dataset, "reader", None)
        if os.getpid() != self._process:  # a tar file opened before a fork has one position for all processes
            _close_tars(reader)
            self._process = os.getpid()
        return self.dataset[index][0] if reader is None else reader[index][0]


def _close_tars(reader: Any) -> None:
    """Make timm's reader open its tar files anew."""
    states = getattr(reader, "tar_state", None)
    waiting = list(states.values()) if isinstance(states, dict) else [states] if states is not None else []
    while waiting:
        state = waiting.pop()
        state.tf = None
        waiting += state.children.values()


def find_timm_images(name: str, root: str | None, split: str, exif_orientation: bool = True) -> LabelledImages:
    """Find the images of a tar file, of a Hugging Face dataset on the disk, or of one of torchvision's sets.

    Args:
        name: in timm's words.
        root: where it lies, or is kept.
        split: its name there; a tar file has none.
        exif_orientation: turn photographs as their EXIF data says.

    Raises:
        DataError: a library is missing; there is no such set or split; its images have no labels that are whole
            numbers from zero.
    """
    dataset = _create(name, root, split)
    reader = getattr(dataset, "reader", None)
    count = len(dataset)
    if reader is None:
        labels, classes = getattr(dataset, "targets", None), getattr(dataset, "classes", None)
        names = [f"{split}/{i}" for i in range(count)]
    elif hasattr(reader, "iter_targets") and not hasattr(reader, "targets"):
        labels, classes = list(reader.iter_targets()), _in_order(reader.class_to_idx)
        names = [f"{split}/{i}" for i in range(count)]
    else:
        labels, classes = reader.targets, _in_order(reader.class_name_to_idx)
        names = [reader.filename(i) for i in range(count)]
    try:
        found = np.array(labels, np.int64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{printable(name)}: its labels are no whole numbers ({error})") from error
    if found.shape != (count,) or (count and found.min() < 0):
        raise DataError(f"{printable(name)}: {count} images, but labels of shape {found.shape}, or below zero")
    wanted = int(found.max()) + 1 if count else 0
    known = [str(each) for each in classes] if classes is not None else [str(i) for i in range(wanted)]
    if wanted > len(known):
        raise DataError(f"{printable(name)}: a label {wanted - 1}, but names of {len(known)} classes")
    reads = TimmImages(dataset, names, exif_orientation)
    return LabelledImages(Path(name), names, found, known, None, reads, exif_orientation)


def _in_order(class_to_idx: dict[str, int]) -> list[str] | None:
    """Return the names of the classes in the order of their numbers."""
    return sorted(class_to_idx, key=lambda name: class_to_idx[name]) if class_to_idx else None


@dataclass(frozen=True)
class Stream:
    """Describes a source of which the images come one after the other."""

    name: str
    root: str | None
    split: str
    class_names: list[str]
    count: int
    """Images of the split."""
    shards: int | None
    """Files that hold them, of which a process reads whole ones; None: the source does not say."""
    exif_orientation: bool = True

    @property
    def path(self) -> Path:
        """Return the source's name, as that of a set."""
        return Path(self.name)

    def __len__(self) -> int:
        return self.count

    def iterate(
        self, epoch: int, seed: int, place: tuple[int, int], workers: int, shuffle: bool
    ) -> Iterator[tuple[Image.Image, int]]:
        """Yield images in RGB and labels, in an order that follows from seed and epoch.

        Args:
            place: of so many processes that share the images, which this one is: (rank, ranks).
            workers: processes that read for this one.
            shuffle: as for training; images may then come twice, so that all processes have the same number.
        """
        dataset = _create(
            self.name, self.root, self.split, is_training=shuffle, seed=seed, num_samples=self.count, batch_size=1,
            input_img_mode="",
        )  # fmt: skip
        reader = dataset.reader
        reader.dist_rank, reader.dist_num_replicas = place
        reader.set_loader_cfg(num_workers=workers)
        dataset.set_epoch(epoch)
        for image, label in reader:
            yield upright_rgb(image, self.exif_orientation), int(label)


def find_stream(
    name: str,
    root: str | None,
    split: str,
    num_samples: int | None,
    class_names: list[str],
    exif_orientation: bool = True,
) -> Stream:
    """Open a source of which the images come one after the other, and say how many they are.

    Args:
        num_samples: images of the split, where the source does not say.
        class_names: the names of the classes, in the order of their numbers, where the source does not say; else [].

    Raises:
        DataError: a library is missing; there is no such set or split; nobody knows how many images, or classes,
            there are.
    """
    dataset = _create(name, root, split, is_training=False, batch_size=1, num_samples=num_samples)
    reader = dataset.reader
    count = num_samples or getattr(reader, "num_samples", 0)
    if not count:
        raise DataError(f"{printable(name)}, split {split}: nobody says how many images there are; pass --num_samples")
    names = class_names or _in_order(getattr(reader, "class_to_idx", {})) or []
    if not names:
        raise DataError(
            f"{printable(name)}: nobody says what the classes are; pass --class_map, a file with the name of each "
            "class, one a line, in the order of their numbers"
        )
    files = getattr(getattr(reader, "split_info", None), "filenames", None)
    return Stream(name, root, split, names, count, len(files) if files else None, exif_orientation)


def labels_in_range(labels: NDArray[np.int64], classes: int, where: str) -> None:
    """Refuse labels that are no class's number.

    Raises:
        DataError: one is not.
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(f"{where}: labels from {labels.min()} to {labels.max()}, there are {classes} classes")
