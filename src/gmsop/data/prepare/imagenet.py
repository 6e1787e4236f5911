"""Pack Downsampled ImageNet (Chrabaszcz et al. 2017), as it is released, into a set."""

import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO, NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

from gmsop.data.imagenet_classes import release_classes
from gmsop.data.packed import SPLITS
from gmsop.data.prepare.options import WriteOptions
from gmsop.data.prepare.registry import register_source
from gmsop.data.prepare.safe_pickle import load_arrays
from gmsop.data.writer import PackedWriter
from gmsop.errors import ConfigError, DataError, GmsopError
from gmsop.utils.progress import progress_bar
from gmsop.utils.walk import walk

SIZES = (64, 32, 16, 8)
TRAIN = tuple(f"train_data_batch_{i}" for i in range(1, 11))
BATCHES = (*TRAIN, "val_data")
ODD_ZIP = (BadZipFile, OSError, ValueError, NotImplementedError)
"""Errors of opening an archive that is damaged, or of a kind that Python does not know."""
ROWS = 4096
"""Images converted at a time."""
MOST_LABELS = 10**7
"""A batch of the release has 128,117."""
ROOM, GROWTH = 2**24, 100
"""What a member of an archive may unpack to: so many bytes, and so many times what it takes there."""


@register_source("imagenet", "Downsampled ImageNet: train_data_batch_*, val_data, .npz or zipped")
def pack_imagenet(
    source: str | Path,
    path: str | Path,
    size: int = 64,
    class_order: str = "release",
    options: WriteOptions | None = None,
) -> None:
    """Pack `train_data_batch_1` to `_10` and `val_data`, wherever they lie below `source`, into a set at `path`.

    Each may be a pickle, an `.npz` file, or either of them inside the official zip archives. If a batch is there both
    unpacked and in an archive, the archive is ignored. Pickles cannot be read in pieces: they take up to two and a half
    times the size of the largest in memory. `.npz` files are streamed.

    Args:
        size: 64, 32, 16 or 8: what the batches hold.
        class_order: which class is label 0. "release" keeps the numbers of the release (less one), which the authors'
            networks and everything else trained on it use. "wordnet" sorts by WordNet id, as torchvision and timm do:
            for a classifier of theirs, or to compare class by class.

    Raises:
        DataError: a batch is missing, found twice, truncated, or of another size; a pickle holds more than data; labels
            are not 1 to 1000.
        WriteError: there is no space or no permission.
    """
    how = options or WriteOptions()
    if size not in SIZES:
        raise ConfigError(f"the release comes in {', '.join(map(str, SIZES))} pixels, not in {size}")
    if class_order not in ("release", "wordnet"):
        raise ConfigError(f"class_order is 'release' or 'wordnet', got {class_order!r}")
    classes = release_classes()
    order = np.arange(1000)
    if class_order == "wordnet":
        place = sorted(range(1000), key=lambda i: classes[i].wnid)
        order[place] = np.arange(1000)
        classes = [classes[i] for i in place]
    found = find_batches(Path(source))
    needed = sum(place.bytes for place in found.values())
    extra = {"class_order": class_order, "wordnet_ids": [c.wnid for c in classes]}
    names = [c.name for c in classes]
    with (
        PackedWriter(
            path, size, dict.fromkeys(SPLITS), names, f"Downsampled ImageNet, {source}", "box", how.overwrite,
            extra, how.progress, needed,
        ) as writer,
        progress_bar(how.progress) as bar,
    ):  # fmt: skip
        task = bar.add_task("packing", total=needed // (3 * size**2))
        for batch in BATCHES:
            for images, labels in read_batch(found[batch], size):
                writer.add_batch(images, order[labels - 1], "val" if batch == "val_data" else "train")
                bar.advance(task, len(images))


class Place(NamedTuple):
    """Says where a batch was found: in a file, or in a member of an archive."""

    file: Path
    member: str | None = None

    def __str__(self) -> str:
        return f"{self.file}/{self.member}" if self.member else str(self.file)

    @property
    def bytes(self) -> int:
        """Return the approximate size of its arrays, for a check of the disk's space; 0 if the file is damaged."""
        try:
            if self.member:
                with ZipFile(self.file) as archive:
                    return archive.getinfo(self.member).file_size
            if self.is_npz:
                with ZipFile(self.file) as archive:
                    return sum(info.file_size for info in archive.infolist())
        except ODD_ZIP:
            return 0
        return self.file.stat().st_size

    @property
    def is_npz(self) -> bool:
        """Return True for an `.npz` file, False for a pickle."""
        return (self.member or self.file.name).endswith(".npz")


def find_batches(source: Path) -> dict[str, Place]:
    """Find the eleven batches below `source`.

    Raises:
        DataError: there is no such folder; batches are missing, which are named, or found more than once.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    damaged: list[str] = []
    plain: dict[str, list[Place]] = {name: [] for name in BATCHES}
    archived: dict[str, list[Place]] = {name: [] for name in BATCHES}
    pattern = re.compile(r"(train_data_batch_\d+|val_data)(\.npz)?")
    below = (Path(inner, name) for inner, names in walk(source) for name in names)
    for file in sorted(file for file in below if file.is_file()):
        if (match := pattern.fullmatch(file.name)) and match[1] in plain:
            plain[match[1]].append(Place(file))
        elif file.suffix == ".zip":
            try:
                with ZipFile(file) as archive:
                    members = archive.namelist()
            except ODD_ZIP as error:  # this does not matter if all batches are found elsewhere
                damaged.append(f"; {file}: truncated or not a zip archive ({error})")
                continue
            for member in members:
                if (match := pattern.fullmatch(member.rsplit("/", 1)[-1])) and match[1] in archived:
                    archived[match[1]].append(Place(file, member))
    found = {name: plain[name] or archived[name] for name in BATCHES}
    if missing := [name for name in BATCHES if not found[name]]:
        there = len(BATCHES) - len(missing)
        raise DataError(
            f"{source}: found {there} of the {len(BATCHES)} batches; missing: {', '.join(missing)}{''.join(damaged)}"
        )
    for name, places in found.items():
        if len(places) > 1:
            raise DataError(
                f"{source}: {name} is there {len(places)} times ({', '.join(map(str, places))}): two data sets in one "
                f"folder? Name the folder of one of them"
            )
    return {name: places[0] for name, places in found.items()}


def read_batch(place: Place, image_size: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield images (k, S, S, 3) and labels (k,), 1 to 1000, at most 4096 at a time.

    Raises:
        DataError: the batch is truncated, or is not what it should be.
    """
    with _open(place) as (labels, rows):
        if isinstance(labels, list) and not all(isinstance(label, int | np.integer) for label in labels):
            raise DataError(f"{place}: labels should be whole numbers, found a list of something else")
        labels = np.asarray(labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise DataError(f"{place}: labels should be whole numbers, found {labels.dtype} {labels.shape}")
        if len(labels) and not 1 <= labels.min() <= labels.max() <= 1000:
            raise DataError(f"{place}: labels run from {labels.min()} to {labels.max()}, should be within 1 to 1000")
        count, width, read = rows
        if width != 3 * image_size**2:
            side = (width / 3) ** 0.5
            other = f"{side:.0f} x {side:.0f} images" if side == int(side) else "no square images"
            raise DataError(f"{place}: rows of {width} values are {other}, not {image_size} x {image_size}")
        if count != len(labels):
            raise DataError(f"{place}: {count} images and {len(labels)} labels")
        for start in range(0, count, ROWS):
            part = read(min(ROWS, count - start))
            images = part.reshape(-1, 3, image_size, image_size).transpose(0, 2, 3, 1)  # from planes to pixels
            yield images, labels[start : start + len(part)].astype(np.int64)


Rows = tuple[int, int, Any]  # number of rows, values per row, and a function that returns the next `count` rows


@contextmanager
def _open(place: Place) -> Iterator[tuple[Any, Rows]]:
    with ExitStack() as stack:
        try:
            stream: Any = stack.enter_context(place.file.open("rb"))
            size = place.file.stat().st_size
            if place.member:
                archive = stack.enter_context(ZipFile(stream))
                member = archive.getinfo(place.member)
                _require_no_bomb(member, place)
                size = member.file_size
                stream = stack.enter_context(archive.open(place.member))
            yield _npz(stack, stream, place) if place.is_npz else _pickle(stream, place, size)
        except MemoryError:
            raise DataError(f"{place}: says that it is larger than the memory") from None
        except (
            BadZipFile, EOFError, ValueError, OSError, KeyError, RuntimeError, zlib.error, SyntaxError, TokenError,
        ) as error:  # fmt: skip
            if isinstance(error, GmsopError):
                raise
            raise DataError(f"{place}: truncated or damaged ({error})") from error


def _pickle(stream: BinaryIO, place: Place, size: int) -> tuple[Any, Rows]:
    batch = load_arrays(stream, str(place), size)
    if not isinstance(batch, dict) or not {"data", "labels"} <= set(batch):
        raise DataError(f"{place}: expected a dict with data and labels")
    data, labels = batch["data"], batch["labels"]
    del batch
    if not isinstance(labels, list | np.ndarray):
        raise DataError(f"{place}: labels should be a list of whole numbers, found a {type(labels).__name__}")
    _require_bytes(place, data.dtype if isinstance(data, np.ndarray) else type(data), np.shape(data))
    parts = (data[start:] for start in range(0, len(data), ROWS))
    return labels, (data.shape[0], data.shape[1], lambda count: next(parts)[:count])


def _npz(stack: ExitStack, stream: BinaryIO, place: Place) -> tuple[Any, Rows]:
    archive = stack.enter_context(ZipFile(stream))
    if not {"data.npy", "labels.npy"} <= set(archive.namelist()):
        raise DataError(f"{place}: expected arrays data and labels, found {', '.join(archive.namelist())}")
    for name in ("data.npy", "labels.npy"):
        _require_no_bomb(archive.getinfo(name), place)
    with archive.open("labels.npy") as file:
        labels = _read_labels(file, place)
    data = stack.enter_context(archive.open("data.npy"))
    shape, fortran, dtype = _read_header(data)
    _require_bytes(place, dtype, shape)
    if fortran:
        raise DataError(f"{place}: data stored column by column cannot be streamed")

    def read(count: int) -> NDArray[np.uint8]:
        block = data.read(count * shape[1])
        if len(block) != count * shape[1]:
            raise DataError(f"{place}: truncated")
        return np.frombuffer(block, np.uint8).reshape(count, shape[1])

    return labels, (shape[0], shape[1], read)


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order and type of an array in NumPy's format, of which the header was not read yet."""
    version = np.lib.format.read_magic(file)
    return (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)


def _read_labels(file: Any, place: Place) -> NDArray[Any]:
    """Read an array of whole numbers, of at most as many as a batch of the release has by far."""
    shape, _, dtype = _read_header(file)
    if len(shape) != 1 or dtype.kind not in "iu" or dtype.fields or not 0 <= shape[0] <= MOST_LABELS:
        raise DataError(f"{place}: labels should be a list of whole numbers, found {dtype} {str(shape)[:60]}")
    content = file.read(shape[0] * dtype.itemsize)
    if len(content) != shape[0] * dtype.itemsize:
        raise DataError(f"{place}: truncated")
    return np.frombuffer(content, dtype)


def _require_no_bomb(member: ZipInfo, place: Place) -> None:
    """Refuse what unpacks to far more than it takes in the archive: photographs hardly shrink."""
    if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):  # of the others, Python unpacks all at once
        raise DataError(f"{place}: {member.filename} is packed by a method that is not read; only deflate is")
    if member.file_size > ROOM + GROWTH * member.compress_size:
        raise DataError(f"{place}: {member.filename} would unpack to {member.file_size / 1e9:.1f} GB, and is not read")


def _require_bytes(place: Place, dtype: object, shape: tuple[int, ...]) -> None:
    if dtype != np.uint8 or len(shape) != 2:
        raise DataError(f"{place}: data should be uint8 with a row per image, found {dtype} {shape}")
