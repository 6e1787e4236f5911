"""Find labelled images wherever they lie: in folders, in a packed set, or in a table of paths."""

import csv
import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmsop.data.image_folder import image_classes
from gmsop.data.images import FILTERS
from gmsop.data.packed import PackedDataset, read_meta
from gmsop.data.preprocess import Preprocess
from gmsop.errors import DataError, TrainingWarning
from gmsop.utils.progress import progress_bar

TEST_FOLDERS = ("val", "valid", "validation", "test")
"""Names of the folder beside `train` that holds the images to test on, in the order in which they are looked for."""

PATH_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS = ("path", "file", "filename", "image"), ("label", "class"), ("split",)


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
    read: Callable[[int, Preprocess], NDArray[np.uint8]] = field(repr=False)
    """Give image i as (S, S, 3) uint8, resized; raises DataError where it cannot be read."""
    content: Callable[[int], bytes] = field(repr=False)
    """Give the stored bytes of image i."""

    def __len__(self) -> int:
        return len(self.names)

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
            lambda i, preprocess: self.read(chosen[i], preprocess),
            lambda i: self.content(chosen[i]),
        )


def find_images(path: str | Path, progress: bool = False) -> LabelledImages:
    """Find labelled images.

    Args:
        path: a packed set; a folder `CLASS/*`, or `train/CLASS/*` with `val/CLASS/*` (or `valid`, `validation`,
            `test`); or a CSV file with a header, columns `path` (or `file`, `filename`, `image`; relative to the
            file's own folder) and `label` (or `class`), and if wanted `split` (`train`, or one of `val`, ...).

    Raises:
        DataError: no images, fewer than two classes, a class of the test images that has no training image, or a table
            that is not one; the text says what was looked for.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such folder or file")
    if path.is_file():
        found = _from_table(path) if path.suffix.lower() in (".csv", ".tsv") else None
        if found is None:
            raise DataError(
                f"{path}: a file that is no .csv; give a folder of images, a packed set or a table of paths"
            )
    else:
        found = _from_packed(path) if (path / "meta.json").exists() else _from_folder(path, progress)
    if len(found.class_names) < 2:
        raise DataError(f"{path}: {len(found.class_names)} class; a comparison needs at least two")
    if found.is_test is not None:
        if not found.is_test.any() or found.is_test.all():
            raise DataError(f"{path}: no {'images to test on' if not found.is_test.any() else 'training images'}")
        unseen = sorted(set(found.labels[found.is_test].tolist()) - set(found.labels[~found.is_test].tolist()))
        if unseen:
            raise DataError(f"{path}: no training image of class {', '.join(found.class_names[i] for i in unseen[:5])}")
    return found


def _from_packed(path: Path) -> LabelledImages:
    splits = [name for name, count in read_meta(path)["splits"].items() if count]
    sets = [PackedDataset(path, name) for name in splits]
    labels = np.concatenate([part.labels for part in sets])
    is_test = np.concatenate([np.full(len(part), name != "train") for name, part in zip(splits, sets, strict=True)])
    places = [(part, i) for part in sets for i in range(len(part))]

    def pixels(i: int) -> NDArray[np.uint8]:
        part, place = places[i]
        return part.images[place]

    def read(i: int, how: Preprocess) -> NDArray[np.uint8]:
        return _resized(pixels(i), how)

    names = [f"{name}/{i}" for name, part in zip(splits, sets, strict=True) for i in range(len(part))]
    both = is_test.any() and not is_test.all()
    return LabelledImages(
        path, names, labels, sets[0].class_names, is_test if both else None, read, lambda i: pixels(i).tobytes()
    )


def _resized(pixels: NDArray[np.uint8], how: Preprocess) -> NDArray[np.uint8]:
    size = (how.image_size, how.image_size)
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, FILTERS[how.filter_name]))


def _from_folder(path: Path, progress: bool) -> LabelledImages:
    tests = [name for name in TEST_FOLDERS if (path / name).is_dir()]
    learnt = image_classes(path / "train", progress=progress)  # none, where "train" is a class: it has no folders in it
    if learnt and not tests:
        others = sorted(p.name for p in path.iterdir() if p.is_dir() and p.name != "train" and p.name[0] != ".")
        if others:
            raise DataError(
                f"{path}: beside train there is {', '.join(others[:5])}; images to test on are in one of "
                f"{', '.join(TEST_FOLDERS)}"
            )
        parts = {"": learnt}
    elif tests and (path / "train").is_dir():
        if len(tests) > 1:
            text = f"{path}: the images of {tests[0]} are tested on; those of {', '.join(tests[1:])} are left alone"
            warnings.warn(text, TrainingWarning, stacklevel=3)
        parts = {"train": learnt, tests[0]: image_classes(path / tests[0], progress=progress)}
        for name, classes in parts.items():
            if not classes:
                raise DataError(f"{path / name}: no folder of images (CLASS/*.jpg) in it")
    else:
        parts = {"": image_classes(path, progress=progress)}
        if not parts[""]:
            raise DataError(
                f"{path}: neither a packed set nor a folder of images (CLASS/*.jpg, or train/CLASS/*.jpg and "
                f"{TEST_FOLDERS[0]}/CLASS/*.jpg)"
            )
    names = sorted({name for classes in parts.values() for name in classes})
    files = [(file, label, part) for part, classes in parts.items() for label in classes for file in classes[label]]
    splits = None if len(parts) == 1 else [part != "train" for _, _, part in files]
    return _of_files(path, path, [file for file, _, _ in files], [label for _, label, _ in files], names, splits)


def _from_table(path: Path) -> LabelledImages:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(
                csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", skipinitialspace=True)
            )
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a table in UTF-8 ({error})") from error
    header = [cell.strip().lower() for cell in rows[0]] if rows else []

    def column(names: Sequence[str]) -> int | None:
        return next((header.index(name) for name in names if name in header), None)

    where, what, split = column(PATH_COLUMNS), column(LABEL_COLUMNS), column(SPLIT_COLUMNS)
    if where is None or what is None:
        raise DataError(
            f"{path}: the first line must name a column {' or '.join(PATH_COLUMNS)} and a column "
            f"{' or '.join(LABEL_COLUMNS)}, got {', '.join(header) or 'nothing'}"
        )
    files, labels, tests = [], [], []
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise DataError(f"{path}, line {number}: {len(row)} cells, the header has {len(header)}")
        if split is not None:
            word = row[split].strip().lower()
            if word not in ("train", *TEST_FOLDERS):
                raise DataError(f"{path}, line {number}: split {word!r}; there are train, {', '.join(TEST_FOLDERS)}")
            tests.append(word != "train")
        label = row[what].strip()
        if not label:
            raise DataError(f"{path}, line {number}: no label")
        files.append(str(path.parent / row[where].strip()))
        labels.append(label)
    if missing := [file for file in files if not Path(file).is_file()]:
        raise DataError(f"{path}: {len(missing)} of {len(files)} files are not there, the first is {missing[0]}")
    if not files:
        raise DataError(f"{path}: no image in it")
    return _of_files(path, path.parent, files, labels, sorted(set(labels)), tests if split is not None else None)


def _of_files(
    path: Path, root: Path, files: list[str], labels: list[str], names: list[str], tests: list[bool] | None
) -> LabelledImages:
    place = {name: i for i, name in enumerate(names)}

    def shown(file: str) -> str:
        try:
            return Path(file).relative_to(root).as_posix()
        except ValueError:
            return file

    return LabelledImages(
        path,
        [shown(file) for file in files],
        np.array([place[label] for label in labels], np.int64),
        names,
        None if tests is None else np.array(tests),
        lambda i, how: how.read(files[i]),
        lambda i: Path(files[i]).read_bytes(),
    )
