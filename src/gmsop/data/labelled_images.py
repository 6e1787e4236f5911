"""Find labelled images wherever they lie: in folders, in a packed set, or in a table of paths."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmsop.data.image_files import VAL_FOLDERS, image_classes, split_folders
from gmsop.data.image_readers import ImageFiles, ImageReader, PackedImages, SomeImages
from gmsop.data.image_table import is_table, read_table
from gmsop.data.packed import PackedDataset, read_meta
from gmsop.data.preprocess import Preprocess
from gmsop.errors import DataError
from gmsop.utils.progress import progress_bar
from gmsop.utils.text import printable


@dataclass(frozen=True)
class LabelledImages:
    """Lists images with their classes, and reads them one at a time."""

    path: Path
    """Where they were found."""
    names: list[str]
    """What an image is called: its path below `path`, or its number in a packed set."""
    labels: NDArray[np.int64]
    """(n,): the class of each image."""
    class_names: list[str]
    is_test: NDArray[np.bool_] | None
    """(n,): which images are to test on; None if the data has no such split."""
    reader: ImageReader = field(repr=False)
    """Reads image i."""
    exif_orientation: bool = True
    """Whether files are turned as their EXIF data says."""

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int, how: Preprocess) -> NDArray[np.uint8]:
        """Return an image as (S, S, 3) uint8.

        Raises:
            DataError: it cannot be read; the text names it.
        """
        return how.fit(self.reader.image(index))

    def content(self, index: int) -> bytes:
        """Return the stored bytes of an image."""
        return self.reader.content(index)

    def files(self) -> Iterator[Path] | None:
        """Return the files of the images, one after the other; None where these have no files of their own."""
        reader: Any = self.reader
        rows = np.arange(len(self))
        while isinstance(reader, SomeImages):
            reader, rows = reader.reader, reader.rows[rows]
        return map(reader.path, rows.tolist()) if isinstance(reader, ImageFiles) else None

    def fingerprint(self, progress: bool = False) -> str:
        """Return a checksum of all images, their names, classes and split, in hexadecimal."""
        mark = hashlib.sha256("\0".join([*self.class_names, "", *self.names]).encode("utf-8", "surrogateescape"))
        mark.update(self.labels.tobytes() + (b"" if self.is_test is None else self.is_test.tobytes()))
        with progress_bar(progress) as bar:
            for i in bar.track(range(len(self)), description="checking images"):
                mark.update(hashlib.sha256(self.content(i)).digest())
        return mark.hexdigest()

    def subset(self, rows: Sequence[int] | NDArray[np.int64]) -> "LabelledImages":
        """Return some of the images, in this order; the classes stay as they are."""
        chosen = [int(row) for row in rows]
        return LabelledImages(
            self.path,
            [self.names[row] for row in chosen],
            self.labels[chosen],
            self.class_names,
            None if self.is_test is None else self.is_test[chosen],
            SomeImages(self.reader, np.array(chosen, np.int64)),
            self.exif_orientation,
        )


def find_images(
    path: str | Path, progress: bool = False, exif_orientation: bool = True, for_training: bool = True
) -> LabelledImages:
    """Find labelled images.

    Args:
        path: a packed set; a folder `CLASS/*`, or `train/CLASS/*` with `val/CLASS/*` under any of their usual names
            (see `gmsop.data.image_files`); or a table of `gmsop.data.image_table.read_table`.
        exif_orientation: turn photographs as their EXIF data says. A packed set is as it is.
        for_training: every class must have training images.

    Raises:
        DataError: no images, fewer than two classes, a class of the test images that has no training image, or a table
            that is not one; the text says what was looked for.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such folder or file")
    if path.is_file():
        if not is_table(path):
            raise DataError(
                f"{path}: a file that is no .csv; give a folder of images, a packed set or a table of paths"
            )
        found = _from_table(path, exif_orientation)
    elif not path.is_dir():
        raise DataError(f"{path}: a pipe, a socket or a device, no folder of images, packed set or table of paths")
    elif (path / "meta.json").exists():
        found = _from_packed(path)
    else:
        found = _from_folder(path, progress, exif_orientation)
    if len(found.class_names) < 2:
        raise DataError(f"{path}: {len(found.class_names)} class; a comparison needs at least two")
    if found.is_test is not None:
        if not found.is_test.any() or found.is_test.all():
            raise DataError(f"{path}: no {'images to test on' if not found.is_test.any() else 'training images'}")
        unseen = sorted(set(found.labels[found.is_test].tolist()) - set(found.labels[~found.is_test].tolist()))
        if unseen and for_training:
            raise DataError(f"{path}: no training image of class {', '.join(found.class_names[i] for i in unseen[:5])}")
    return found


def _from_packed(path: Path) -> LabelledImages:
    splits = [name for name, count in read_meta(path)["splits"].items() if count]
    sets = [PackedDataset(path, name) for name in splits]
    labels = np.concatenate([part.labels for part in sets])
    is_test = np.concatenate([np.full(len(part), name != "train") for name, part in zip(splits, sets, strict=True)])
    names = [f"{name}/{i}" for name, part in zip(splits, sets, strict=True) for i in range(len(part))]
    both = is_test.any() and not is_test.all()
    return LabelledImages(path, names, labels, sets[0].class_names, is_test if both else None, PackedImages(sets))


def _from_folder(path: Path, progress: bool, exif_orientation: bool) -> LabelledImages:
    train_folder, test_folder = split_folders(path)
    train = image_classes(train_folder, progress)
    if not train:
        where = path if train_folder == path else train_folder
        raise DataError(
            f"{where}: neither a packed set nor a folder of images (CLASS/*.jpg, or train/CLASS/*.jpg and "
            f"{VAL_FOLDERS[0]}/CLASS/*.jpg)"
        )
    test = {} if test_folder is None else image_classes(test_folder, progress, may_be_empty=train)
    if test_folder is not None and not test:
        raise DataError(f"{test_folder}: no folder of images (CLASS/*.jpg) in it")
    names = sorted({*train, *test})
    files = [(file, label, part is test) for part in (train, test) for label in part for file in part[label]]
    splits = [is_test for _, _, is_test in files] if test else None
    labels = [label for _, label, _ in files]
    return _of_files(path, path, [file for file, _, _ in files], labels, names, splits, exif_orientation)


def _from_table(path: Path, exif_orientation: bool) -> LabelledImages:
    rows = read_table(path)
    labels = [row.label for row in rows]
    tests = None if rows[0].is_test is None else [bool(row.is_test) for row in rows]
    files = [row.file for row in rows]
    return _of_files(path, path.parent, files, labels, sorted(set(labels)), tests, exif_orientation)


def _of_files(
    path: Path,
    root: Path,
    files: list[str],
    labels: list[str],
    names: list[str],
    tests: list[bool] | None,
    exif_orientation: bool,
) -> LabelledImages:
    place = {name: i for i, name in enumerate(names)}

    def shown(file: str) -> str:
        try:
            return printable(Path(file).relative_to(root).as_posix())
        except ValueError:
            return printable(file)

    return LabelledImages(
        path,
        [shown(file) for file in files],
        np.array([place[label] for label in labels], np.int64),
        names,
        None if tests is None else np.array(tests),
        ImageFiles(files, exif_orientation),
        exif_orientation,
    )
