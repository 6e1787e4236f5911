"""Compare an exported file with the model it was made of: the same logits and classes on real images, and the speed."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmsop.data.image_files import folder_images
from gmsop.data.labelled_images import LabelledImages, find_images
from gmsop.data.preprocess import Preprocess
from gmsop.data.sample import sample_path
from gmsop.errors import ConfigError, DataError
from gmsop.export.registry import Run
from gmsop.utils.progress import progress_bar

TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit of the image."""
BATCH = 32
ROUNDS = 9


class Judged(NamedTuple):
    """Holds images to compare on."""

    images: NDArray[np.uint8]
    """(n, S, S, 3)."""
    labels: NDArray[np.int64] | None
    """(n,): their classes; None where they are not the model's."""


@dataclass(frozen=True)
class Agreement:
    """Says how far two programs agree, and how fast they are."""

    images: int
    error: float
    """Largest difference of a logit, relative to the largest logit of the image."""
    same: int
    """Images with the same likeliest class."""
    model_error: float | None
    """The model's top-1 error, in percent; None where no classes of the images are known."""
    file_error: float | None
    """That of the file."""
    milliseconds: dict[int, tuple[float, float, float]]
    """By size of the batch: the model's time, the file's, and the median ratio of both within a round."""


def pixels_of(
    path: str | Path | None,
    how: Preprocess,
    count: int,
    label_names: Sequence[str] | None,
    progress: bool,
    train: bool = False,
) -> Judged:
    """Return up to `count` images, evenly spread over those to test on (or to train on), prepared as the model's.

    Raises:
        DataError: there are none.
    """
    path = sample_path(progress) if path is None else Path(path)
    found = _found(path)
    if not isinstance(found, list) and found.is_test is not None:
        rows = np.flatnonzero(found.is_test != train)
    else:
        rows = np.arange(len(found))
    if not len(rows) or count < 1:
        raise DataError(f"{path}: no images to compare on")
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64))]
    images = np.empty((len(rows), how.image_size, how.image_size, 3), np.uint8)
    with progress_bar(progress) as bar:
        for place, row in enumerate(bar.track(rows.tolist(), description="reading images")):
            images[place] = how.read(Path(found[row])) if isinstance(found, list) else found.read(row, how)
    if isinstance(found, list) or label_names is None or list(label_names) != list(found.class_names):
        return Judged(images, None)
    return Judged(images, found.labels[rows])


def _found(path: Path) -> LabelledImages | list[str]:
    """Return labelled images; of a folder that is none of classes, just its images."""
    try:
        return find_images(path)
    except DataError:
        images = list(folder_images(path)) if path.is_dir() else []
        if not images:
            raise
        return images


def compare(
    model: Run, file: Run, inputs: Callable[[NDArray[np.uint8]], NDArray[Any]], judged: Judged, progress: bool
) -> Agreement:
    """Run both on all images, in batches of 32 and what is left, and the first image alone; then time both in turn."""
    ours, theirs = [], []
    starts = range(0, len(judged.images), BATCH)
    with progress_bar(progress) as bar:
        for start in bar.track(starts, description="comparing"):
            batch = inputs(judged.images[start : start + BATCH])
            ours.append(model(batch))
            theirs.append(file(batch))
    one = inputs(judged.images[:1])
    a, b = np.concatenate([*ours, model(one)]), np.concatenate([*theirs, file(one)])
    if not np.isfinite(a).all():
        raise ConfigError("the model itself gives no numbers for these images: are its weights finite?")
    scale = np.maximum(np.abs(a).max(1), np.finfo(np.float32).tiny)
    error = float((np.abs(a - b).max(1) / scale).max()) if np.isfinite(b).all() else float("inf")
    best, other = a[:-1].argmax(1), b[:-1].argmax(1)
    errors: list[float | None] = [None, None]
    if judged.labels is not None:
        errors = [100 * float((found != judged.labels).mean()) for found in (best, other)]
    with progress_bar(progress) as bar:
        sizes = bar.track((1, min(BATCH, len(judged.images))), description="timing")
        speed = {size: _timed(model, file, inputs(judged.images[:size])) for size in sizes}
    return Agreement(len(best), error, int((best == other).sum()), errors[0], errors[1], speed)


def _timed(model: Run, file: Run, batch: NDArray[Any]) -> tuple[float, float, float]:
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS + 2):
        for run, own in zip((model, file), times, strict=True):
            start = time.perf_counter()
            run(batch)
            if number >= 2:  # the first rounds warm up
                own.append(1e3 * (time.perf_counter() - start))
    ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
    return statistics.median(times[0]), statistics.median(times[1]), ratio


def require_agreement(agreement: Agreement, path: Path, gated: bool) -> None:
    """Refuse a file that does not answer as the model does.

    Args:
        gated: whether the model has a gate, for the error's hint.

    Raises:
        ConfigError: it does not.
    """
    if agreement.error <= TOLERANCE and agreement.same == agreement.images:
        return
    differs = agreement.images - agreement.same
    hint = "Weights that were never trained may give covariances so nearly singular that rounding decides"
    if gated:
        hint = "With a gate that was never trained, all components tie, and which ones it takes is left to rounding"
    raise ConfigError(
        f"{path}: the file does not answer as the model does: logits differ by up to {agreement.error:.1e} of the "
        f"largest (allowed: {TOLERANCE:.0e}), {differs} of {agreement.images} images get another class. {hint}"
    )
