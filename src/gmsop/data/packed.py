"""The packed set: a folder of two arrays and a description, opened as a memory map.

    images.npy   (n, S, S, 3) uint8, RGB: all of train, then all of val
    labels.npy   (n,) int64, 0-based
    meta.json    format, version, image_size, splits, class_names, rgb_mean, rgb_std, source, filter, sha256

Memory does not grow with the set: pages are read as images are, and shared by all processes that map the file.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from gmsop.errors import ConfigError, DataError
from gmsop.files import digest, write_error

FORMAT, VERSION = "gmsop-packed", 1
SPLITS = ("train", "val")
FILES = frozenset({"images.npy", "labels.npy", "meta.json"})
VERIFY_BELOW = 256 * 2**20
"""Sets smaller than this many bytes are checked against their checksums whenever they are opened."""

Image = NDArray[np.uint8]


class PackedWriter:
    """Writes a packed set, image by image, under a temporary name; `close` makes it appear at `path`, whole.

    Use as a context manager: on any exception, or if fewer images were added than announced, nothing appears.

    Args:
        path: the folder to make. Must not exist, unless `overwrite`.
        image_size: S.
        splits: number of images of each split, in the order they will be added: `{"train": 1500, "val": 500}`.
        class_names: label i is `class_names[i]`.
        source: where the images come from, for people.
        filter_name: how they were resized, for people.
        overwrite: replace the set at `path`; it stays until the new one is complete. (Killed in the very moment of the
            exchange, it is found in a hidden folder `.NAME.*.old` beside.)

    Raises:
        DataError: `path` exists; an image of another shape or type; a label out of range; too many images.
        WriteError: no space, no permission. What stood at `path` is intact.
    """

    def __init__(
        self,
        path: str | Path,
        image_size: int,
        splits: dict[str, int],
        class_names: Sequence[str],
        source: str,
        filter_name: str,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        if self.path.is_symlink():  # what it points to is replaced, not the link
            self.path = self.path.resolve()
        if list(splits) != [name for name in SPLITS if name in splits] or not splits or min(splits.values()) < 0:
            raise ConfigError(f"splits must be counts of {' and '.join(SPLITS)}, in this order; got {splits}")
        if self.path.exists():
            if not self.path.is_dir() or not {child.name for child in self.path.iterdir()} <= FILES:
                raise DataError(f"{self.path} holds something else than a packed set: it will not be overwritten")
            if not overwrite:
                raise DataError(f"{self.path} already exists; choose another folder or pass --overwrite")
        self.image_size, self.splits, self.class_names = image_size, splits, list(class_names)
        self.source, self.filter_name = source, filter_name
        self.count = sum(splits.values())
        self._labels: list[int] = []
        self._hash = hashlib.sha256()
        self._sum = np.zeros(3, np.int64)
        self._square_sum = np.zeros(3, np.int64)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", suffix=".part", dir=self.path.parent))
            self._folder.chmod(0o755)
            self._file = (self._folder / "images.npy").open("wb")
            header = {"descr": "|u1", "fortran_order": False, "shape": (self.count, image_size, image_size, 3)}
            np.lib.format.write_array_header_1_0(_Tee(self._file, self._hash), header)
        except OSError as error:
            raise write_error(path, error) from error

    def add(self, image: Image, label: int) -> None:
        """Append one image, (S, S, 3) uint8 RGB."""
        shape = (self.image_size, self.image_size, 3)
        if image.shape != shape or image.dtype != np.uint8:
            raise DataError(f"image {len(self._labels)}: expected uint8 {shape}, got {image.dtype} {image.shape}")
        if not 0 <= label < len(self.class_names):
            raise DataError(f"image {len(self._labels)}: label {label} is not in 0..{len(self.class_names) - 1}")
        if len(self._labels) == self.count:
            raise DataError(f"more images than the {self.count} announced")
        block = np.ascontiguousarray(image).tobytes()
        try:
            self._file.write(block)
        except OSError as error:
            raise write_error(self.path, error) from error
        self._hash.update(block)
        self._labels.append(label)
        if len(self._labels) <= next(iter(self.splits.values())):  # the mean is that of the training images
            values = image.reshape(-1, 3).astype(np.int64)
            self._sum += values.sum(0)
            self._square_sum += (values**2).sum(0)

    def close(self) -> None:
        """Check that all announced images came, write labels and description, move the folder into place."""
        if len(self._labels) != self.count:
            raise DataError(f"{self.path}: {len(self._labels)} images were added, {self.count} announced")
        pixels = max(1, next(iter(self.splits.values())) * self.image_size**2)
        mean = self._sum / pixels
        std = np.sqrt(np.maximum(self._square_sum / pixels - mean**2, 0))
        try:
            self._file.close()
            np.save(self._folder / "labels.npy", np.array(self._labels, np.int64))
            meta = {
                "format": FORMAT,
                "version": VERSION,
                "image_size": self.image_size,
                "splits": self.splits,
                "class_names": self.class_names,
                "rgb_mean": mean.tolist(),
                "rgb_std": std.tolist(),
                "source": self.source,
                "filter": self.filter_name,
                "sha256": {
                    "images.npy": self._hash.hexdigest(),
                    "labels.npy": digest(self._folder / "labels.npy"),
                },
            }
            (self._folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
            _replace_folder(self._folder, self.path)
        except OSError as error:
            raise write_error(self.path, error) from error

    def __enter__(self) -> "PackedWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            with suppress(OSError):  # on a full disk the last block cannot be flushed, and is not wanted any more
                self._file.close()
            shutil.rmtree(self._folder, ignore_errors=True)


class PackedDataset(Dataset[tuple[Image, int]]):
    """One split of a packed set, memory-mapped: `dataset[i]` is (image (S, S, 3) uint8, label).

    Args:
        path: the folder.
        split: "train" or "val".
        verify: compare the checksums (reads the whole set). None: only if it is small, below 256 MiB.

    Raises:
        DataError: no packed set at `path`; a missing file; arrays of a shape, type, size or checksum other than
            described; labels out of range; no such split.
    """

    def __init__(self, path: str | Path, split: str, verify: bool | None = None) -> None:
        self.path, self.split = Path(path), split
        self.meta = read_meta(path)
        counts = self.meta["splits"]
        if split not in counts:
            raise DataError(f"{path}: no split {split!r}; it has {', '.join(counts)}")
        total, size = sum(counts.values()), self.meta["image_size"]
        images = _open(self.path / "images.npy", (total, size, size, 3), np.uint8)
        labels = _open(self.path / "labels.npy", (total,), np.int64)
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

    @property
    def class_names(self) -> list[str]:
        return list(self.meta["class_names"])

    @property
    def image_size(self) -> int:
        return int(self.meta["image_size"])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return self.images[index], int(self.labels[index])


def read_meta(path: str | Path) -> dict[str, Any]:
    """The description of a packed set, checked for what this version of gmsop relies on.

    Raises:
        DataError: there is none, or it is not valid.
    """
    path = Path(path)
    file = path / "meta.json"
    if not file.is_file():
        hint = (
            "no such folder" if not path.exists() else "not a packed set (no meta.json); make one with `gmsop prepare`"
        )
        raise DataError(f"{path}: {hint}")
    try:
        meta = json.loads(file.read_text())
        if meta["format"] != FORMAT or meta["version"] != VERSION:
            raise DataError(f"{path}: format {meta['format']} {meta['version']}, expected {FORMAT} {VERSION}")
        counts, size, names = meta["splits"], meta["image_size"], meta["class_names"]
        good = (
            isinstance(size, int) and size > 0 and isinstance(names, list) and names and isinstance(counts, dict)
            and counts and all(isinstance(n, int) and n >= 0 for n in counts.values())
            and all(isinstance(name, str) for name in names) and list(counts) == [s for s in SPLITS if s in counts]
            and len(meta["rgb_mean"]) == len(meta["rgb_std"]) == 3
            and all(0 <= float(v) <= 255 for v in meta["rgb_mean"] + meta["rgb_std"])
            and isinstance(meta["sha256"], dict) and set(meta["sha256"]) == {"images.npy", "labels.npy"}
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        raise DataError(f"{file}: damaged ({type(error).__name__}: {error})") from error
    if not good:
        raise DataError(f"{file}: damaged (image_size, splits, class_names, rgb_mean or sha256 is not valid)")
    return dict(meta)


def verify_checksums(path: str | Path, meta: dict[str, Any]) -> None:
    """Compare both arrays with the checksums in `meta`.

    Raises:
        DataError: one differs.
    """
    for name, expected in meta["sha256"].items():
        found = digest(Path(path) / name)
        if found != expected:
            raise DataError(f"{Path(path) / name}: damaged (sha256 {found[:12]}..., expected {str(expected)[:12]}...)")


def _open(file: Path, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file}: missing or truncated ({error})") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{file}: an archive of arrays, expected one array")
    if array.shape != shape or array.dtype != dtype:
        raise DataError(f"{file}: expected {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")
    return array


def _replace_folder(new: Path, path: Path) -> None:
    """Move `new` to `path`. A folder cannot be replaced in one step: the old one steps aside first, then goes."""
    if not path.exists():
        new.rename(path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    path.rename(aside / path.name)
    try:
        new.rename(path)
    except OSError:
        (aside / path.name).rename(path)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


class _Tee:
    """Writes to a file and a hash at once."""

    def __init__(self, file: Any, state: Any) -> None:
        self._file, self._state = file, state

    def write(self, block: bytes) -> int:
        self._state.update(block)
        return int(self._file.write(block))
