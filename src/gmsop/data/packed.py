"""The packed set is a folder of two arrays and a description; the arrays are opened as memory maps.

    images.npy   (n, S, S, 3) uint8, RGB: all of train, then all of val
    labels.npy   (n,) int64, 0-based
    meta.json    format, version, image_size, splits, class_names, rgb_mean, rgb_std, source, filter, sha256
    files.txt    if known: the name of each image's file, a line per image, with what is not printable escaped

Memory does not grow with the set: pages are read when their images are, and shared by all processes that map the file.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from gmsop.errors import DataError
from gmsop.utils.arrays import open_array
from gmsop.utils.files import digest
from gmsop.utils.text import open_text, read_lines

FORMAT, VERSION = "gmsop-packed", 1
SPLITS = ("train", "val")
NAMES = "files.txt"
FILES = frozenset({"images.npy", "labels.npy", "meta.json", NAMES})
LARGEST_META = 2**26
"""Bytes of a description that is read: a million class names, or the names of as many images that were skipped."""
VERIFY_BELOW = 256 * 2**20
"""Sets smaller than this many bytes are checked against their checksums whenever they are opened."""

Image = NDArray[np.uint8]


class PackedDataset(Dataset[tuple[Image, int]]):
    """Serves one split of a packed set from a memory map: `dataset[i]` is (image (S, S, 3) uint8, label).

    Args:
        path: the set's folder.
        split: "train" or "val".
        verify: compare the checksums, which reads the whole set. None: only if the set is below 256 MiB.

    Raises:
        DataError: there is no packed set at `path`; a file is missing; an array's shape, type, size or checksum is not
            as described; a label is out of range; there is no such split.
    """

    def __init__(self, path: str | Path, split: str, verify: bool | None = None) -> None:
        self.path, self.split = Path(path), split
        self.meta = read_meta(path)
        counts = self.meta["splits"]
        if split not in counts:
            raise DataError(f"{path}: no split {split!r}; it has {', '.join(counts)}")
        total, size = sum(counts.values()), self.meta["image_size"]
        images = open_array(self.path / "images.npy", (total, size, size, 3), np.uint8)
        labels = open_array(self.path / "labels.npy", (total,), np.int64)
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.class_names):
            raise DataError(
                f"{path}: labels run from {labels.min()} to {labels.max()}, there are {len(self.class_names)} classes"
            )
        if verify or (verify is None and images.nbytes < VERIFY_BELOW):
            verify_checksums(self.path, self.meta)
        names = list(counts)
        start = sum(counts[name] for name in names[: names.index(split)])
        self.images: NDArray[np.uint8] = images[start : start + counts[split]]
        self.labels: NDArray[np.int64] = np.asarray(labels[start : start + counts[split]])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path instead of the images, so that another process opens the memory map itself."""
        return PackedDataset, (self.path.absolute(), self.split, False)

    @property
    def class_names(self) -> list[str]:
        """Return the class names; label i is `class_names[i]`."""
        return list(self.meta["class_names"])

    def file_names(self) -> list[str] | None:
        """Return the name of each image's file, or None if the set does not know them.

        Raises:
            DataError: there are more or fewer names than images.
        """
        file = self.path / NAMES
        if not file.is_file():
            return None
        names = list(read_lines(file))
        require_names(names, sum(self.meta["splits"].values()), file)
        start = 0
        for split, count in self.meta["splits"].items():
            if split == self.split:
                return names[start : start + count]
            start += count
        return None

    @property
    def image_size(self) -> int:
        """Return S, the images' height and width in pixels."""
        return int(self.meta["image_size"])

    @property
    def fingerprint(self) -> str:
        """Return the checksums of the set's images and labels, all splits together."""
        return fingerprint_of(self.meta)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return self.images[index], int(self.labels[index])

    def batch(self, rows: NDArray[np.int64]) -> tuple[Image, NDArray[np.int64]]:
        """Return images (k, S, S, 3) and labels (k,)."""
        return self.images[rows], self.labels[rows]


def fingerprint_of(meta: Mapping[str, Any]) -> str:
    """Return the checksums of a packed set's images and labels, from its description."""
    return ":".join(meta["sha256"][name] for name in ("images.npy", "labels.npy"))


def require_names(names: Sequence[str], count: int, where: Path) -> None:
    """Refuse names of files that are not one per image.

    Raises:
        DataError: they are not.
    """
    if len(names) != count:
        raise DataError(f"{where}: {len(names)} names of files for {count} images")


def read_meta(path: str | Path) -> dict[str, Any]:
    """Return the description of a packed set, checked for what this version of gmsop relies on.

    Raises:
        DataError: there is no description, or it is not valid.
    """
    path = Path(path)
    file = path / "meta.json"
    if not file.is_file():
        hint = (
            "no such folder" if not path.exists() else "not a packed set (no meta.json); make one with `gmsop prepare`"
        )
        raise DataError(f"{path}: {hint}")
    if file.stat().st_size > LARGEST_META:
        raise DataError(f"{file}: {file.stat().st_size / 1e6:,.0f} MB, which no description is")
    try:
        with open_text(file) as stream:
            meta = json.load(stream)
        if meta["format"] != FORMAT or meta["version"] != VERSION:
            raise DataError(f"{path}: format {meta['format']} {meta['version']}, expected {FORMAT} {VERSION}")
        counts, size, names = meta["splits"], meta["image_size"], meta["class_names"]
        good = (
            isinstance(size, int) and size > 0 and isinstance(names, list) and names and isinstance(counts, dict)
            and counts and all(isinstance(n, int) and n >= 0 for n in counts.values())
            and all(isinstance(name, str) for name in names) and list(counts) == [s for s in SPLITS if s in counts]
            and len(meta["rgb_mean"]) == len(meta["rgb_std"]) == 3
            and all(isinstance(v, int | float) and 0 <= v <= 255 for v in meta["rgb_mean"] + meta["rgb_std"])
            and isinstance(meta["source"], str) and isinstance(meta["filter"], str)
            and isinstance(meta["sha256"], dict) and set(meta["sha256"]) == {"images.npy", "labels.npy"}
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        raise DataError(f"{file}: damaged ({type(error).__name__}: {error})") from error
    if not good:
        raise DataError(f"{file}: damaged (image_size, splits, class_names, rgb_mean or sha256 is not valid)")
    return dict(meta)


def verify_checksums(path: str | Path, meta: dict[str, Any]) -> None:
    """Compare the checksums of both arrays with those in `meta`.

    Raises:
        DataError: a checksum differs.
    """
    for name, expected in meta["sha256"].items():
        found = digest(Path(path) / name)
        if found != expected:
            raise DataError(f"{Path(path) / name}: damaged (sha256 {found[:12]}..., expected {str(expected)[:12]}...)")
