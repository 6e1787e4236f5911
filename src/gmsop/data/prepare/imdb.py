"""Pack the authors' `imdb.mat` (MatConvNet's image database) into a set."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmsop.data.packed import SPLITS
from gmsop.data.prepare.options import WriteOptions
from gmsop.data.prepare.registry import register_source
from gmsop.data.writer import PackedWriter
from gmsop.errors import ConfigError, DataError
from gmsop.utils.files import digest
from gmsop.utils.matlab_files import require_sound_hdf5, require_sound_matlab5
from gmsop.utils.progress import progress_bar
from gmsop.utils.text import open_text

IMDB_MD5 = "fe50ac93f74744b970b3102e14e69768"
"""MD5 of the authors' ImageNet-64 `imdb.mat`, 13 GB."""

PIECE = 64 * 2**20
"""Bytes of pixels converted at a time."""


class _Imdb(NamedTuple):
    total: int
    size: tuple[int, int]
    """Height and width."""
    read: Callable[[int, int], NDArray[np.uint8]]
    """`read(start, stop)` returns the images from start up to, not including, stop: (k, S, S, 3)."""
    labels: NDArray[Any]
    set: NDArray[Any]
    rgb_mean: list[float] | None


@register_source("imdb", "the authors' imdb.mat")
def pack_imdb(
    source: str | Path,
    path: str | Path,
    class_names: str | Path | Sequence[str] | None = None,
    md5: bool = False,
    options: WriteOptions | None = None,
) -> None:
    """Pack `images/data` of `source`: `images/set` 1 goes to train, 2 to val, and any other is left out.

    MATLAB v7.3 (HDF5) files are streamed, 64 MiB at a time; older files, which hold at most 2 GB, are read
    whole. Labels become 0-based. `meta/rgbMean` is kept in the description as `source_rgb_mean`.

    Args:
        class_names: of labels 1, 2, ...; or a file with one a line. The file has none: their numbers if not given.
        md5: refuse a file whose MD5 is not that of the published 13 GB ImageNet-64 file. Reads it whole, once.

    Raises:
        DataError: there is no such file; it is not an imdb; arrays have other shapes than they should; labels exceed
            the class names; the MD5 is another.
        WriteError: there is no space or no permission.
    """
    how = options or WriteOptions()
    known = _names_in(class_names) if isinstance(class_names, str | Path) else class_names
    source = Path(source)
    if not source.is_file():
        raise DataError(f"{source}: {'a folder, name the file in it' if source.is_dir() else 'no such file'}")
    if md5 and (found := digest(source, "md5")) != IMDB_MD5:
        raise DataError(f"{source}: MD5 {found}, the authors' ImageNet-64 file has {IMDB_MD5}")
    with ExitStack() as stack:
        imdb = _open(source, stack)
        labels = _numbers(source, "images/labels", imdb.labels, imdb.total) - 1
        where = _numbers(source, "images/set", imdb.set, imdb.total)
        if imdb.size[0] != imdb.size[1]:
            raise DataError(f"{source}: images of {imdb.size[0]} x {imdb.size[1]} pixels are not square")
        rows = {split: np.flatnonzero(where == number) for number, split in enumerate(SPLITS, 1)}
        if not len(rows["train"]):
            raise DataError(f"{source}: no image has images/set 1, none is left to train on")
        used = np.concatenate(list(rows.values()))
        if labels[used].min() < 0:
            raise DataError(f"{source}: labels start at {labels[used].min() + 1}, expected 1")
        if known is None and labels[used].max() >= len(used):
            raise DataError(
                f"{source}: labels run to {labels[used].max() + 1} for {len(used)} images: no class numbers"
            )
        names = list(known or [str(i + 1) for i in range(labels[used].max() + 1)])
        counts = {split: len(index) for split, index in rows.items()}
        mean = imdb.rgb_mean
        if mean and not (len(mean) == 3 and all(math.isfinite(value) for value in mean)):
            raise DataError(f"{source}: meta/rgbMean should be three numbers, found {mean[:4]}")
        extra = {"source_rgb_mean": mean} if mean else {}
        writer = stack.enter_context(
            PackedWriter(
                path, imdb.size[0], counts, names, str(source), "as in the source", how.overwrite, extra, how.progress
            )
        )
        bar = stack.enter_context(progress_bar(how.progress))
        step = max(1, PIECE // (3 * imdb.size[0] * imdb.size[1]))
        for split, index in rows.items():
            task = bar.add_task(f"packing {split}", total=imdb.total)
            for start in range(0, imdb.total, step):
                stop = min(start + step, imdb.total)
                wanted = index[(index >= start) & (index < stop)]
                if len(wanted):
                    writer.add_batch(_read(source, imdb, start, stop)[wanted - start], labels[wanted], split)
                bar.advance(task, stop - start)


def _names_in(file: str | Path) -> list[str]:
    try:
        with open_text(Path(file)) as stream:
            return stream.read().rstrip("\n").split("\n")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error})") from error


def _read(source: Path, imdb: _Imdb, start: int, stop: int) -> NDArray[np.uint8]:
    try:
        return imdb.read(start, stop)
    except (OSError, RuntimeError) as error:  # h5py's errors name no file
        raise DataError(f"{source}: images {start} to {stop} are damaged ({error})") from error


def _open(source: Path, stack: ExitStack) -> _Imdb:
    import h5py

    try:
        if h5py.is_hdf5(source):
            file = stack.enter_context(h5py.File(source))
            require_sound_hdf5(file, source)
            return _hdf5(source, file)
        require_sound_matlab5(source)
        return _matlab5(source)
    except DataError:
        raise
    except Exception as error:  # scipy and h5py raise all kinds of errors for a damaged file
        raise DataError(f"{source}: truncated, or not an imdb.mat ({type(error).__name__}: {error})") from error


def _hdf5(source: Path, file: Any) -> _Imdb:
    _require(source, [name for name in ("images/data", "images/labels", "images/set") if name not in file])
    data = file["images/data"]
    if data.ndim != 4 or data.shape[1] != 3 or data.dtype != np.uint8:
        raise DataError(f"{source}: images/data should be uint8 (n, 3, W, H), found {data.dtype} {data.shape}")
    for name in ("images/labels", "images/set", *(["meta/rgbMean"] if "meta/rgbMean" in file else [])):
        if file[name].dtype.kind not in "iufb":
            raise DataError(f"{source}: {name} should be numbers, found {file[name].dtype}")
    for name in ("images/labels", "images/set"):
        if file[name].size != data.shape[0]:
            raise DataError(f"{source}: {name} should be {data.shape[0]} whole numbers, found {file[name].shape}")
    if "meta/rgbMean" in file and file["meta/rgbMean"].size != 3:
        raise DataError(f"{source}: meta/rgbMean should be three numbers, found {file['meta/rgbMean'].shape}")
    # HDF5 shows MATLAB's axes from last to first: (n, channel, column, row).
    return _Imdb(
        data.shape[0],
        (data.shape[3], data.shape[2]),
        lambda start, stop: data[start:stop].transpose(0, 3, 2, 1),
        file["images/labels"][()],
        file["images/set"][()],
        file["meta/rgbMean"][()].ravel().tolist() if "meta/rgbMean" in file else None,
    )


def _matlab5(source: Path) -> _Imdb:
    import scipy.io

    content: Any = scipy.io.loadmat(source, squeeze_me=False, struct_as_record=True)
    if "images" in content and content["images"].shape != (1, 1):
        raise DataError(f"{source}: images should be one struct, found an array of {content['images'].shape}")
    fields = (
        {f"images/{n}": content["images"][0, 0][n] for n in content["images"].dtype.names}
        if "images" in content
        else {}
    )
    _require(source, [name for name in ("images/data", "images/labels", "images/set") if name not in fields])
    data = fields["images/data"]
    if data.ndim != 4 or data.shape[2] != 3 or data.dtype != np.uint8:
        raise DataError(f"{source}: images.data should be uint8 (H, W, 3, n), found {data.dtype} {data.shape}")
    meta = content["meta"][0, 0] if "meta" in content else None
    has_mean = meta is not None and "rgbMean" in (meta.dtype.names or ())
    return _Imdb(
        data.shape[3],
        (data.shape[0], data.shape[1]),
        lambda start, stop: data[..., start:stop].transpose(3, 0, 1, 2),
        fields["images/labels"],
        fields["images/set"],
        meta["rgbMean"].ravel().astype(float).tolist() if meta is not None and has_mean else None,
    )


def _require(source: Path, missing: list[str]) -> None:
    if missing:
        raise DataError(f"{source}: not an imdb.mat, it lacks {', '.join(missing)}")


def _numbers(source: Path, name: str, values: NDArray[Any], count: int) -> NDArray[np.int64]:
    flat = np.asarray(values).ravel()
    if len(flat) != count or flat.dtype.kind not in "iuf" or not (np.isfinite(flat) & (flat == np.floor(flat))).all():
        raise DataError(f"{source}: {name} should be {count} whole numbers, found {flat.dtype} {np.shape(values)}")
    return flat.astype(np.int64)
