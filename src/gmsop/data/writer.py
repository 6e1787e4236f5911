"""Write a packed set under a temporary name until it is complete, and read it back before it counts."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmsop.data.duplicates import MARK_SIZE, Equal, count_equal, equal_groups, mark_images
from gmsop.data.packed import FILES, FORMAT, NAMES, SPLITS, VERSION, Image, require_names
from gmsop.errors import ConfigError, DataError
from gmsop.utils.files import beside, digest, require_space, to_disk, write_error
from gmsop.utils.lock import Lock
from gmsop.utils.progress import progress_bar
from gmsop.utils.text import open_text, printable


class SetInUseError(DataError):
    """Another process is writing the set."""


class PackedWriter:
    """Writes a packed set under the temporary name `.NAME.part`; `close` moves the complete set to `path`.

    Use it as a context manager. On any exception, or if the numbers of images are not those announced, nothing appears.
    What a killed writer leaves has the temporary name, and the next writer replaces it.

    Args:
        path: the folder to make. It must not exist, unless `overwrite`.
        image_size: S.
        splits: number of images of each split, in the order they will be added: `{"train": 1500, "val": 500}`. None
            for a number that is not known beforehand: then `add` and `add_batch` must be told the split.
        class_names: label i is `class_names[i]`.
        source: where the images come from, for people.
        filter_name: how they were resized, for people.
        overwrite: replace the set at `path`; it stays until the new one is complete. (If the writer is killed between
            the two moves, the old set is in `.NAME.old` beside it, and the next writer puts it back.)
        extra: further entries of the description, kept as they are.
        progress: show a bar while `close` reads back what was written.
        needed: bytes needed on the disk, if the numbers of images do not tell.

    Raises:
        DataError: `path` exists, or another process is writing it; an image has another shape or type; a label is out
            of range; there are too many images.
        WriteError: there is no space (checked before anything is written) or no permission. What was at `path` is
            intact.
    """

    def __init__(
        self,
        path: str | Path,
        image_size: int,
        splits: Mapping[str, int | None],
        class_names: Sequence[str],
        source: str,
        filter_name: str,
        overwrite: bool = False,
        extra: Mapping[str, Any] | None = None,
        progress: bool = False,
        needed: int | None = None,
    ) -> None:
        self.path = Path(path)
        if self.path.is_symlink():  # replace what the link points to, not the link
            self.path = self.path.resolve()
        known = [n for n in splits.values() if n is not None]
        if list(splits) != [name for name in SPLITS if name in splits] or not splits or min(known, default=0) < 0:
            raise ConfigError(f"splits must be counts of {' and '.join(SPLITS)}, in this order; got {dict(splits)}")
        require_writable_set(self.path, overwrite)
        self.image_size, self.announced, self.class_names = image_size, dict(splits), list(class_names)
        self.source, self.filter_name = source, filter_name
        self.extra, self.progress = dict(extra or {}), progress
        self.counts = dict.fromkeys(splits, 0)
        self._labels: list[NDArray[np.int64]] = []
        self._marks: list[NDArray[np.uint8]] = []
        self._names: list[str] = []
        self._hash = hashlib.sha256()
        self._histogram = np.zeros((3, 256), np.int64)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            require_space(self.path.parent, needed or sum(known) * image_size**2 * 3)
            self._folder = beside(self.path, ".part")
            self._lock = _lock(self.path)
            if _is_ours(self._folder, unfinished=True):
                shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir()
            self._file = (self._folder / "images.npy").open("wb")
            self._write_header(0)  # NumPy leaves room in the header for a larger number
            self._header_size = self._file.tell()
        except OSError as error:
            raise write_error(path, error) from error

    def add(self, image: Image, label: int, split: str | None = None) -> None:
        """Append one image, (S, S, 3) uint8 RGB."""
        self.add_batch(image[None], np.array([label]), split)

    def add_batch(
        self, images: Image, labels: NDArray[Any], split: str | None = None, names: Sequence[str] = ()
    ) -> None:
        """Append images (k, S, S, 3), uint8 RGB, of one split, with `labels` (k,), integers.

        Args:
            names: of the image files, to be found again; of all images of the set or of none.
        """
        total = sum(self.counts.values())
        shape = (self.image_size, self.image_size, 3)
        if images.shape[1:] != shape or images.dtype != np.uint8:
            raise DataError(f"image {total}: expected uint8 {shape}, got {images.dtype} {images.shape[1:]}")
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise DataError(f"image {total}: {len(images)} images, but labels {labels.dtype} {labels.shape}")
        wrong = np.flatnonzero((labels < 0) | (labels >= len(self.class_names)))
        if len(wrong):
            first = wrong[0]
            raise DataError(f"image {total + first}: label {labels[first]} is not in 0..{len(self.class_names) - 1}")
        split = split or self._next_split()
        last = list(self.counts).index(split) == len(self.counts) - 1
        if not last and self.counts[list(self.counts)[-1]]:
            raise DataError(f"image {total}: of {split}, after one of {list(self.counts)[-1]}")
        announced = self.announced[split]
        if announced is not None and self.counts[split] + len(images) > announced:
            raise DataError(f"more images of {split} than the {announced} announced")
        block = np.ascontiguousarray(images)
        try:
            self._file.write(block.data)
        except OSError as error:
            raise write_error(self.path, error) from error
        self._hash.update(block.data)
        self._labels.append(np.asarray(labels, np.int64))
        self._marks.append(mark_images(block))
        self._names += names
        self.counts[split] += len(images)
        if split == next(iter(self.counts)):  # mean and deviation are those of the training images
            for channel in range(3):
                self._histogram[channel] += np.bincount(block[..., channel].ravel(), minlength=256)

    def close(self) -> None:
        """Check that all announced images are on the disk as they were added, then move the folder into place."""
        for split, count in self.counts.items():
            if self.announced[split] not in (None, count):
                raise DataError(f"{self.path}: {count} images of {split} were added, {self.announced[split]} announced")
        pixels = max(1, int(self._histogram[0].sum()))
        values = np.arange(256)
        mean = self._histogram @ values / pixels
        std = np.sqrt(np.maximum(self._histogram @ values**2 / pixels - mean**2, 0))
        labels = np.concatenate([np.zeros(0, np.int64), *self._labels])
        try:
            self._file.seek(0)
            self._write_header(len(labels))
            self._file.close()
            np.save(self._folder / "labels.npy", labels)
            if not np.array_equal(np.load(self._folder / "labels.npy"), labels):
                raise DataError(f"{self._folder / 'labels.npy'}: the disk gave back other labels than were written")
            meta = {
                "format": FORMAT,
                "version": VERSION,
                "image_size": self.image_size,
                "splits": self.counts,
                "class_names": self.class_names,
                "rgb_mean": mean.tolist(),
                "rgb_std": std.tolist(),
                "source": self.source,
                "filter": self.filter_name,
                "equal_images": self._equal_images(labels)._asdict(),
                **self.extra,
                "sha256": {
                    "images.npy": self._read_back(),
                    "labels.npy": digest(self._folder / "labels.npy"),
                },
            }
            if self._names:
                require_names(self._names, len(labels), self.path)
                (self._folder / NAMES).write_text("".join(f"{printable(name)}\n" for name in self._names), "utf-8")
            (self._folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
            for written in (*self._folder.iterdir(), self._folder):
                to_disk(written)  # the files must reach the disk before the folder's new name does
            _replace_folder(self._folder, self.path)
        except OSError as error:
            raise write_error(self.path, error) from error

    def _equal_images(self, labels: NDArray[np.int64]) -> Equal:
        marks = np.concatenate(self._marks) if self._marks else np.empty((0, MARK_SIZE), np.uint8)
        return count_equal(equal_groups(marks), labels, self.counts.get("train", 0))

    def __enter__(self) -> "PackedWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            with suppress(OSError):  # on a full disk the last block cannot be flushed, and nobody needs it
                self._file.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._lock.release()

    def _next_split(self) -> str:
        for split, count in self.announced.items():
            if count is None:
                raise ConfigError("the split of an image must be said where the number of images is not announced")
            if self.counts[split] < count:
                return split
        raise DataError(f"more images than the {sum(self.counts.values())} announced")

    def _write_header(self, count: int) -> None:
        shape = (count, self.image_size, self.image_size, 3)
        np.lib.format.write_array_header_1_0(self._file, {"descr": "|u1", "fortran_order": False, "shape": shape})

    def _read_back(self) -> str:
        """Return the checksum of the image file on the disk, checking that its pixels are those that were added."""
        whole, body = hashlib.sha256(), hashlib.sha256()
        file = self._folder / "images.npy"
        with progress_bar(self.progress) as bar, file.open("rb") as stream:
            task = bar.add_task("verifying", total=file.stat().st_size)
            whole.update(stream.read(self._header_size))
            while block := stream.read(1 << 22):
                whole.update(block)
                body.update(block)
                bar.advance(task, len(block))
        if body.digest() != self._hash.digest():
            raise DataError(f"{file}: the disk gave back other pixels than were written")
        return whole.hexdigest()


def require_writable_set(path: Path, overwrite: bool) -> None:
    """Refuse a `path` to which no set may be written. A set that a killed writer left aside is put back first.

    Raises:
        DataError: something else is there; or a set is there and `overwrite` is false; or it is being written.
    """
    _put_back(path)
    if path.exists():
        if not _is_ours(path):
            raise DataError(f"{path} holds something else than a packed set: it will not be overwritten")
        if not overwrite:
            raise DataError(f"{path} already exists; choose another folder or pass --overwrite")


def _is_ours(path: Path, unfinished: bool = False) -> bool:
    """Return True if the folder holds nothing but a packed set, or is empty; or if `unfinished`, a part of one."""
    if path.is_symlink() or not path.is_dir():
        return False
    children = list(path.iterdir())
    if not all(child.name in FILES and child.is_file() and not child.is_symlink() for child in children):
        return False
    meta = path / "meta.json"
    if not meta.exists():
        return unfinished or not children
    try:
        with open_text(meta) as file:
            return f'"{FORMAT}"' in file.read(4096)
    except (OSError, UnicodeError):
        return False


def _replace_folder(new: Path, path: Path) -> None:
    """Move `new` to `path`. A folder cannot be replaced in one step: the old one is moved aside first, then removed."""
    if not path.exists():
        new.rename(path)
        return
    aside = beside(path, ".old")
    path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _put_back(path: Path) -> None:
    """Undo a replacement that was killed between its two moves; remove what one killed after them left."""
    aside = beside(path, ".old")
    if not _is_ours(aside) and not beside(path, ".lock").is_file():
        return
    lock = _lock(path)  # another process may be in the middle of a replacement
    try:
        if _is_ours(aside):
            if not path.exists():
                aside.rename(path)
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        lock.release()


def _lock(path: Path) -> Lock:
    try:
        return Lock(beside(path, ".lock"), SetInUseError(f"{path}: another process is writing this set"))
    except OSError as error:
        raise write_error(path, error) from error
