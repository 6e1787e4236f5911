"""Compute features once, in a way that survives being killed."""

import json
import math
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from gmsop.backbones.timm_models import FEATURES, TimmBackbone
from gmsop.data.labelled_images import LabelledImages, find_images
from gmsop.data.preprocess import Preprocess
from gmsop.engine.messages import say, warn
from gmsop.errors import ConfigError, DataError
from gmsop.probe.features import FORMAT, META, VERSION, Features, read_meta
from gmsop.utils.files import beside, digest, require_space, to_disk, write_error
from gmsop.utils.lock import Lock
from gmsop.utils.progress import progress_bar
from gmsop.utils.text import first_line
from gmsop.weights.fingerprint import fingerprint
from gmsop.weights.pretrained import load_backbone, pretrained_state

EVERY = 16
"""Batches between two notes of how far the work is."""


def extract(
    backbone: str,
    data: str | Path | LabelledImages,
    out: str | Path,
    layers: Sequence[str | int] | str = "auto",
    weights: str = "auto",
    *,
    image_size: int | None = None,
    batch_size: int = 4,
    num_workers: int | None = None,
    flip: bool = False,
    progress: bool = False,
) -> Features:
    """Write the features of images at several layers of a frozen backbone, or open them if they are there already.

    Work that was stopped goes on where it was, and ends with the same bytes.

    Args:
        backbone: timm's name.
        data: see `gmsop.data.labelled_images.find_images`.
        out: the folder to make.
        layers: names or indices of the backbone's levels, "features" for its last features; "auto": see
            `choose_layers`.
        weights: see `gmsop.weights.pretrained.pretrained_state`.
        image_size: pixels; None: the backbone's own.
        batch_size: images that go through the backbone together; on CPUs few are fastest, as they stay in the cache.
        num_workers: threads that decode images; None: one for each core.
        flip: the mirrored images, too.
        progress: show bars, and what will be done.

    Raises:
        UnknownNameError: no such backbone or layer; the text lists the nearest.
        ConfigError: weights that cannot be had, features that are not finite, sizes below 1.
        DataError: images that cannot be read; `out` holds features of something else.
        WriteError: there is no space (checked before anything is written) or no permission.
    """
    out = Path(out)
    for name, value in (("batch_size", batch_size), ("image_size", image_size), ("num_workers", num_workers)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    images = data if isinstance(data, LabelledImages) else find_images(data, progress)
    if isinstance(layers, str):
        if layers != "auto":
            raise ConfigError(f"layers must be a list, or auto, got {layers!r}")
        layers = choose_layers(TimmBackbone(backbone), image_size)
    if weights == "none":
        warn(f"{backbone} has random weights (--weights none): its features tell little about images")
    trunk = frozen_backbone(backbone, layers, weights)
    how = _preprocess(trunk, image_size)
    shapes = dict(zip(trunk.layers, _shapes(trunk, how.image_size, how.image_size), strict=True))
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "backbone": backbone,
        "weights": {"from": weights, "sha256": fingerprint(trunk.model)},
        "preprocess": {
            "image_size": how.image_size, "mean": list(how.mean), "std": list(how.std), "filter_name": how.filter_name,
            "exif_orientation": images.exif_orientation,
        },
        "layers": {layer: {"shape": list(shape), "dtype": "float16"} for layer, shape in shapes.items()},
        "data": {"path": str(images.path.absolute()), "fingerprint": images.fingerprint(progress)},
        "names": images.names,
        "class_names": images.class_names,
        "is_test": None if images.is_test is None else images.is_test.tolist(),
        "flip": flip,
        "batch_size": batch_size,
    }  # fmt: skip
    if (out / META).exists():
        _require_same(out, meta)
        return Features.open(out)
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise DataError(f"{out}: exists and holds no features")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = Lock(beside(out, ".lock"), DataError(f"{out}: another process is writing these features"))
    except OSError as error:
        raise write_error(out, error) from error
    try:
        if not (out / META).exists():  # another process may have finished meanwhile
            _write(out, meta, images, trunk, how, num_workers, progress)
    finally:
        lock.release()
    return Features.open(out)


def frozen_backbone(backbone: str, layers: Sequence[str | int], weights: str) -> TimmBackbone:
    """Return a backbone in evaluation mode, with its layers and weights; see `extract`."""
    state = pretrained_state(backbone, weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights must be the same in every run, or stopped work could not go on
        trunk = TimmBackbone(backbone, layers=layers)
    load_backbone(trunk, state, backbone if weights == "auto" else weights)
    return trunk.eval().to(memory_format=torch.channels_last)


def choose_layers(trunk: TimmBackbone, image_size: int | None = None) -> list[str]:
    """Choose the levels worth a comparison: the last of each map size, from 1/16 of the image's sides on.

    Of a transformer, whose maps are all of one size: those at half and three quarters of its depth, and the last.
    """
    names = trunk.layer_names()
    if len(names) < 2:
        return [FEATURES]
    sides = trunk.input_size if image_size is None else (image_size, image_size)
    whole = TimmBackbone.around(trunk.model, layers=[*names])
    shapes = dict(zip(names, _shapes(whole, *sides), strict=True))
    positions = {name: math.prod(shape[1:]) for name, shape in shapes.items()}
    last = shapes[FEATURES]
    levels = names[:-1]
    if len({positions[name] for name in levels}) == 1:
        return [levels[len(levels) // 2 - 1], levels[3 * len(levels) // 4 - 1], FEATURES]
    most = math.prod(-(-side // 16) for side in sides)
    found = {positions[name]: name for name in levels if 1 < positions[name] <= most}
    if shapes[levels[-1]][0] == last[0]:  # the last level is the last features, perhaps with a norm between
        found.pop(positions[levels[-1]], None)
    return [*found.values(), FEATURES]


def _shapes(trunk: TimmBackbone, height: int, width: int) -> list[tuple[int, ...]]:
    """Return the shapes (C, H, W) of the layers' maps for images of this size."""
    try:
        return [shape[1:] for shape in trunk.layer_shapes(height, width)]
    except (AssertionError, RuntimeError) as error:  # how timm's models refuse a size
        reason = first_line(error)
        raise ConfigError(f"the backbone does not take images of {height} x {width} pixels: {reason}") from error


WHOLE = {"crop_mode": "squash", "crop_pct": 1.0}
"""The whole image is seen, its aspect ratio ignored."""


def _preprocess(trunk: TimmBackbone, image_size: int | None) -> Preprocess:
    cfg: Any = trunk.model.pretrained_cfg
    side = image_size or trunk.input_size[0]
    return Preprocess.of({**cfg, "input_size": (3, side, side), **WHOLE})


def _require_same(out: Path, wanted: dict[str, Any]) -> None:
    found = read_meta(out)
    for key, words in (
        ("backbone", "another backbone"),
        ("data", "other images"),
        ("preprocess", "images prepared otherwise"),
        ("flip", "other views"),
        ("layers", "other layers"),
        ("weights", "other weights"),
    ):
        a, b = found[key], wanted[key]
        if key == "data":
            a, b = a["fingerprint"], b["fingerprint"]
        elif key == "weights":
            a, b = a["sha256"], b["sha256"]
        elif key == "layers":  # the kind of numbers follows from what they are
            a, b = ([(layer, entry["shape"]) for layer, entry in each.items()] for each in (a, b))
        if a != b:
            if key == "preprocess":
                words += f" ({', '.join(f'{k} {a.get(k)}, now {b[k]}' for k in b if a.get(k) != b[k])})"
            raise DataError(f"{out}: features of {words}; name another folder, or remove this one")


class _TooLargeError(Exception):
    """A layer has a number that float16 does not hold."""


def _write(
    out: Path,
    meta: dict[str, Any],
    images: LabelledImages,
    trunk: TimmBackbone,
    how: Preprocess,
    num_workers: int | None,
    progress: bool,
) -> None:
    part = beside(out, ".part")
    views = ("", ".flip") if meta["flip"] else ("",)
    while True:
        size = sum(
            len(images) * math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize * len(views)
            for entry in meta["layers"].values()
        )
        if part.is_symlink():
            raise DataError(f"{part}: a link, where features would be written; remove it")
        try:
            done = _rows_done(part, meta)
            if done == 0 and not _is_ours(part, meta):
                raise DataError(f"{part}: holds something else than unfinished features; remove it, or rename it")
            if done == 0:
                if (part / "state.json").exists():
                    warn(f"{out}: unfinished features of something else were there; they are given up")
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                require_space(out.parent, size)
            if progress:
                where = f", going on after {done:,}" if done else ""
                say(f"features of {len(images):,} images at {', '.join(meta['layers'])}: {size / 1e6:,.0f} MB{where}")
            _compute(part, meta, images, trunk, how, num_workers or os.cpu_count() or 1, done, progress)
            _finish(part, out, meta, images)
            return
        except _TooLargeError as error:
            layer = str(error)
            warn(f"layer {layer} has numbers that float16 does not hold: it is written in float32, from the start")
            meta["layers"][layer]["dtype"] = "float32"
        except OSError as error:
            raise write_error(out, error) from error


def _is_ours(part: Path, meta: dict[str, Any]) -> bool:
    """Whether a folder of unfinished work is not there, or was made by `extract`."""
    try:
        found = list(part.iterdir())
    except FileNotFoundError:
        return True
    own = {"state.json", "state.json.new", "labels.npy", META}
    arrays = {f"{layer}{view}.npy" for layer in meta["layers"] for view in ("", ".flip")}
    noted = (part / "state.json").is_file()  # of other layers, perhaps
    return all(
        child.is_file() and (child.name in own | arrays or (noted and child.suffix == ".npy")) for child in found
    )


def _rows_done(part: Path, meta: dict[str, Any]) -> int:
    """Return how many images of unfinished work can be kept: none, if it was of something else."""
    try:
        state = json.loads((part / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
    if not isinstance(state, dict) or state.get("meta") != {**meta, "data": {**meta["data"], "path": ""}}:
        return 0
    return int(state["rows"])


def _note(part: Path, meta: dict[str, Any], rows: int) -> None:
    new = part / "state.json.new"
    state = {"rows": rows, "meta": {**meta, "data": {**meta["data"], "path": ""}}}
    new.write_text(json.dumps(state), encoding="utf-8")
    to_disk(new)
    new.replace(part / "state.json")


def _compute(
    part: Path,
    meta: dict[str, Any],
    images: LabelledImages,
    trunk: TimmBackbone,
    how: Preprocess,
    threads: int,
    done: int,
    progress: bool,
) -> None:
    count, step, views = len(images), meta["batch_size"], ("", ".flip") if meta["flip"] else ("",)
    arrays = {
        f"{layer}{view}": open_memmap(
            part / f"{layer}{view}.npy",
            mode="r+" if done else "w+",
            dtype=entry["dtype"],
            shape=(count, *entry["shape"]),
        )
        for layer, entry in meta["layers"].items()
        for view in views
    }
    with progress_bar(progress) as bar, torch.inference_mode(), ThreadPoolExecutor(threads) as pool:
        task = bar.add_task("features", total=count, completed=done)
        for number, (start, pixels) in enumerate(_read_ahead(images, how, range(done, count, step), step, pool), 1):
            x = how.input(torch.from_numpy(pixels)).contiguous(memory_format=torch.channels_last)
            for view in views:
                maps: tuple[Tensor, ...] = trunk(x.flip(3) if view else x)
                for layer, found in zip(meta["layers"], maps, strict=True):
                    _keep(arrays[f"{layer}{view}"], start, found, layer, images)
            bar.advance(task, len(pixels))
            if number % EVERY == 0:
                for array in arrays.values():
                    array.flush()
                _note(part, meta, start + len(pixels))
    for array in arrays.values():
        array.flush()


def _keep(array: Any, start: int, found: Tensor, layer: str, images: LabelledImages) -> None:
    values = found.numpy()
    with np.errstate(over="ignore"):
        kept = values.astype(array.dtype)
    if not np.isfinite(kept).all():
        bad = ~np.isfinite(values).all(axis=(1, 2, 3))
        if bad.any():
            name = images.names[start + int(bad.argmax())]
            raise ConfigError(f"layer {layer} gives numbers that are not finite, first for {name}: look at the weights")
        raise _TooLargeError(layer)
    array[start : start + len(kept)] = kept


def _read_ahead(
    images: LabelledImages, how: Preprocess, starts: Sequence[int], step: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield batches of pixels; the next four are decoded while one is worked on."""
    waiting: deque[tuple[int, list[Future[NDArray[np.uint8]]]]] = deque()
    for start in starts:
        rows = range(start, min(start + step, len(images)))
        waiting.append((start, [pool.submit(images.read, row, how) for row in rows]))
        if len(waiting) > 4:
            first, futures = waiting.popleft()
            yield first, np.stack([future.result() for future in futures])
    for first, futures in waiting:
        yield first, np.stack([future.result() for future in futures])


def _finish(part: Path, out: Path, meta: dict[str, Any], images: LabelledImages) -> None:
    np.save(part / "labels.npy", images.labels)
    (part / "state.json").unlink(missing_ok=True)
    files = sorted(part.glob("*.npy"))
    for file in files:
        to_disk(file)
    complete = {**meta, "sha256": {file.name: digest(file) for file in files}}
    (part / META).write_text(json.dumps(complete), encoding="utf-8")
    to_disk(part / META)
    to_disk(part)
    if out.exists():
        out.rmdir()
    part.replace(out)
    to_disk(out.parent)
