"""Find the images to train on and to validate on, wherever they lie; hold a share out where there is no second set."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmsop.data.data_options import DataOptions
from gmsop.data.equal_files import warn_of_equal_files
from gmsop.data.image_files import image_classes, split_folder
from gmsop.data.image_readers import ImageFiles
from gmsop.data.labelled_images import LabelledImages, find_images
from gmsop.data.packed import fingerprint_of, read_meta
from gmsop.data.timm_sources import Stream, find_stream, find_timm_images, is_stream, is_timm_source, labels_in_range
from gmsop.errors import ConfigError, DataError, DataWarning, GmsopError
from gmsop.utils.text import printable, read_lines

VAL_SPLITS = ("validation", "val", "test")
"""Splits of a Hugging Face dataset that are validated on, the first that there is."""


@dataclass(frozen=True)
class TrainingImages:
    """Holds the images of a run."""

    train: LabelledImages | Stream
    val: LabelledImages | Stream
    held_out: bool
    """Whether the images to validate on are a share of the training images."""
    fingerprint: str
    """Checksum of the training images' names, sizes and classes; of a packed set, of its pixels."""

    @property
    def class_names(self) -> list[str]:
        """Return the names of the classes, in the order of their numbers."""
        return self.train.class_names


def find_training_images(data: str, options: DataOptions, progress: bool = False) -> TrainingImages:
    """Find the images of a run.

    Args:
        data: a folder of images, a table, a packed set, or a name of `gmsop.data.timm_sources`.
        progress: show a bar while folders are listed.

    Raises:
        DataError: see `gmsop.data.labelled_images.find_images` and `gmsop.data.timm_sources`; there is nothing to
            validate on; an image to validate on is of a class without training images.
        ConfigError: options that cannot work together.
    """
    classes = [] if options.class_map is None else _class_names(Path(options.class_map))
    if is_stream(data):
        return _streams(data, options, classes)
    if is_timm_source(data):
        train, val = _by_timm(data, options)
    else:
        if options.data_dir is not None:
            raise ConfigError(f"data_dir: {data} is a path, not a name of a source that timm reads")
        train, val = _of_paths(Path(data), options, progress)
    if options.val_data is not None:
        val = _images_below(Path(options.val_data), train, progress, options)
    if classes:
        train, val = _in_order(train, classes), None if val is None else _in_order(val, classes)
    mark = _fingerprint(train)
    held_out = val is None
    if val is None:
        train, val = _hold_out(train, options)
    for images in (train, val):
        labels_in_range(images.labels, len(train.class_names), printable(str(images.path)))
    _require_all_classes(train, val, held_out)
    warn_of_equal_files(train, val)
    return TrainingImages(train, val, held_out, mark)


def _class_names(file: Path) -> list[str]:
    names = [line.strip() for line in read_lines(file)]
    while names and not names[-1]:
        names.pop()
    if len(names) < 2 or "" in names or len(set(names)) < len(names):
        raise DataError(f"{file}: must name two classes or more, one a line, each once")
    return names


def _streams(data: str, options: DataOptions, classes: list[str]) -> TrainingImages:
    root, split, turn = options.data_dir, options.val_split or VAL_SPLITS[0], options.exif_orientation
    train = find_stream(data, root, options.train_split, options.num_samples, classes, turn)
    val = find_stream(data, root, split, options.val_samples, train.class_names, turn)
    mark = hashlib.sha256("\0".join([data, train.split, str(train.count), *train.class_names]).encode())
    return TrainingImages(train, val, False, mark.hexdigest())


def _by_timm(data: str, options: DataOptions) -> tuple[LabelledImages, LabelledImages | None]:
    def opened(split: str) -> LabelledImages:
        return find_timm_images(data, options.data_dir, split, options.exif_orientation)

    train = opened(options.train_split)
    if options.val_split is not None:
        return train, opened(options.val_split)
    if data.lower().endswith(".tar") or options.val_data is not None:
        return train, None
    for split in VAL_SPLITS:
        try:
            return train, opened(split)
        except GmsopError:
            continue
    return train, None


def _of_paths(data: Path, options: DataOptions, progress: bool) -> tuple[LabelledImages, LabelledImages | None]:
    if options.val_split is not None:
        if not (data / options.val_split).is_dir():
            raise DataError(f"{data / options.val_split}: no such folder of images to validate on")
        folder = split_folder(data, options.train_split)
        if folder == data:
            raise DataError(f"{data}: beside {options.val_split} there is no folder {options.train_split}")
        train = _of_folder(folder, progress, options)
        return train, _in_order(_of_folder(data / options.val_split, progress, options), train.class_names)
    found = find_images(data, progress, options.exif_orientation)
    if found.is_test is None:
        return found, None
    return found.subset(np.flatnonzero(~found.is_test)), found.subset(np.flatnonzero(found.is_test))


def _of_folder(path: Path, progress: bool, options: DataOptions) -> LabelledImages:
    """Return the images of one folder CLASS/*, which has no splits."""
    classes = image_classes(path, progress)
    if not classes:
        raise DataError(f"{printable(str(path))}: no folder of images (CLASS/*.jpg) in it")
    files = [file for found in classes.values() for file in found]
    labels = np.repeat(np.arange(len(classes)), [len(found) for found in classes.values()])
    shown = [printable(Path(file).relative_to(path).as_posix()) for file in files]
    reads = ImageFiles(files, options.exif_orientation)
    return LabelledImages(path, shown, labels, list(classes), None, reads, options.exif_orientation)


def _images_below(path: Path, train: LabelledImages, progress: bool, options: DataOptions) -> LabelledImages:
    """Return the images of another folder, table or tar file, by the training images' classes."""
    if is_timm_source(str(path)):
        val = find_timm_images(str(path), None, "", options.exif_orientation)
    elif path.is_dir() and not (path / "meta.json").exists():
        val = _of_folder(path, progress, options)
    else:
        val = find_images(path, progress, options.exif_orientation)
    return _in_order(val, train.class_names)


def _in_order(images: LabelledImages, classes: Sequence[str]) -> LabelledImages:
    """Number the classes as they are listed.

    Raises:
        DataError: images of a class that is not listed.
    """
    if images.class_names == list(classes):
        return images
    place = {name: i for i, name in enumerate(classes)}
    used = [images.class_names[i] for i in np.unique(images.labels)]
    if unknown := [name for name in used if name not in place]:
        names = ", ".join(map(printable, unknown[:5]))
        raise DataError(f"{printable(str(images.path))}: images of {names}, no class of the training images or the map")
    numbers = np.array([place.get(name, -1) for name in images.class_names], np.int64)
    return LabelledImages(
        images.path, images.names, numbers[images.labels], list(classes), images.is_test, images.reader,
        images.exif_orientation,
    )  # fmt: skip


def _hold_out(images: LabelledImages, options: DataOptions) -> tuple[LabelledImages, LabelledImages]:
    """Draw a share of each class, at least one image and never the last."""
    chosen = held_out(images.labels, options.val_share, options.split_seed)
    if not chosen.any():
        raise DataError(
            f"{printable(str(images.path))}: nothing to validate on: no class has two images, and there is no "
            "val/CLASS/*"
        )
    return images.subset(np.flatnonzero(~chosen)), images.subset(np.flatnonzero(chosen))


def held_out(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Return which of the images with these labels (n,) are held out, the same share of each class."""
    draw = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        chosen[draw.choice(rows, count, replace=False)] = True
    return chosen


def _require_all_classes(train: LabelledImages, val: LabelledImages, drawn: bool) -> None:
    where, names = printable(str(train.path)), train.class_names
    if len(names) < 2:
        raise DataError(f"{where}: {len(names)} class: there is nothing to tell apart")
    if not len(val):
        raise DataError(f"{printable(str(val.path))}: no image to validate on")
    counts, tested = (np.bincount(images.labels, minlength=len(names)) for images in (train, val))
    if missing := [names[i] for i in np.flatnonzero(counts == 0)]:
        raise DataError(f"{where}: no training image of class {', '.join(map(printable, missing[:5]))}")
    if untested := [names[i] for i in np.flatnonzero(tested == 0)]:
        why = "which has a single one" if drawn else "which val lacks"
        shown = ", ".join(map(printable, untested[:5])) + (", ..." if len(untested) > 5 else "")
        warnings.warn(f"{where}: no image to validate on of class {shown}, {why}", DataWarning, stacklevel=3)


def _fingerprint(images: LabelledImages) -> str:
    """Return a checksum of the images' names, sizes and classes, or of a packed set's pixels."""
    if (images.path / "meta.json").is_file():
        return fingerprint_of(read_meta(images.path))
    mark = hashlib.sha256("\0".join([*images.class_names, "", *images.names]).encode("utf-8", "surrogateescape"))
    mark.update(images.labels.tobytes())
    if (files := images.files()) is not None:
        sizes = np.zeros(len(images), np.int64)
        for place, file in enumerate(files):
            try:
                sizes[place] = file.stat().st_size
            except OSError:
                sizes[place] = -1
        mark.update(sizes.tobytes())
    return mark.hexdigest()
