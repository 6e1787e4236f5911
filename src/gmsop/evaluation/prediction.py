"""Classify images: one, or as many as come."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gmsop.data.image_sources import AnyImage, FoundImage, image_of
from gmsop.data.preprocess import Preprocess
from gmsop.errors import ConfigError, DataError
from gmsop.evaluation.batches import NOT_FINITE, Batch, in_batches
from gmsop.models.classifier import PooledClassifier, plain_model
from gmsop.nn import Routing
from gmsop.utils.text import printable


@dataclass(frozen=True)
class Prediction:
    """Holds a model's answer for one image."""

    classes: list[tuple[str, float]]
    """The likeliest classes with their probabilities, best first."""
    components: list[tuple[int, float]] | None = None
    """The components the gate chose (from 0) with their weights, best first; None without a gate."""
    name: str = field(default="", compare=False)
    """The image's path, or its number where it has none."""
    error: str | None = None
    """Why there is no answer, and there are no classes: the image could not be read, or the model gave no numbers."""


@overload
def predict(  # type: ignore[overload-overlap] # a text is an image's path, not texts of one letter
    model: PooledClassifier, images: AnyImage, top: int = ..., exif_orientation: bool = ...
) -> Prediction: ...


@overload
def predict(
    model: PooledClassifier,
    images: Iterable[AnyImage],
    top: int = ...,
    exif_orientation: bool = ...,
    *,
    batch_size: int | None = ...,
    num_workers: int | None = ...,
    precision: str = ...,
    devices: str | Sequence[str | torch.device] = ...,
    on_error: str = ...,
) -> Iterator[Prediction]: ...


def predict(
    model: PooledClassifier,
    images: AnyImage | Iterable[AnyImage],
    top: int = 5,
    exif_orientation: bool = True,
    *,
    batch_size: int | None = None,
    num_workers: int | None = None,
    precision: str = "32-true",
    devices: str | Sequence[str | torch.device] = "auto",
    on_error: str = "stop",
) -> Prediction | Iterator[Prediction]:
    """Classify images, prepared as `model.pretrained_cfg` says.

    Args:
        images: one image (a path, an image of Pillow, or uint8 pixels (H, W, 3)), or any number of them, of which no
            more than a few batches are held at a time.
        top: how many classes to return.
        exif_orientation: turn files as their EXIF data says, as viewers do.
        batch_size: images at a time on each device; None: 64, on a CPU fewer of large images, which is faster there.
        num_workers: threads that decode; None: as many as there are processors.
        precision: "32-true", "bf16-mixed", "16-mixed" or "64-true".
        devices: "auto", a number of GPUs, or devices of PyTorch; they take turns, batch by batch.
        on_error: "stop" at an image that cannot be read, or for which the model gives no numbers; or "skip" it: its
            prediction then has an `error`.

    Returns:
        For one image its prediction, for several an iterator over theirs, in their order.

    Raises:
        DataError: an image is missing or none, and `on_error` is "stop".
        ConfigError: the model has no classifier, or does not take RGB images; an argument that cannot be.
    """
    if on_error not in ("stop", "skip"):
        raise ConfigError(f"on_error is 'stop' or 'skip', got {on_error!r}")
    settings: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers, "precision": precision}
    settings |= {"devices": devices, "on_error": on_error}
    if isinstance(images, str | Path | Image.Image | np.ndarray):
        one = predicted(model, [image_of(images)], top, exif_orientation, **settings | {"num_workers": 0})
        return next(one)
    found = (image_of(each, index) for index, each in enumerate(images))
    return predicted(model, found, top, exif_orientation, **settings)


def predicted(
    model: PooledClassifier,
    images: Iterable[FoundImage],
    top: int = 5,
    exif_orientation: bool = True,
    on_error: str = "stop",
    **settings: Any,
) -> Iterator[Prediction]:
    """Classify found images: see `predict`. What is asked wrongly is refused now, not at the first image."""
    model = plain_model(model, keep_compiled=True)
    cfg = model.pretrained_cfg
    if model.num_classes < 1 or cfg["input_size"][0] != 3 or model.in_chans != 3:
        raise ConfigError("predict needs a model with a classifier that takes RGB images")
    if top < 1:
        raise ConfigError(f"top must be at least 1, got {top}")
    preprocess = replace(Preprocess.of(cfg), exif_orientation=exif_orientation)
    names = cfg.get("label_names") or [str(i) for i in range(model.num_classes)]
    count = min(top, model.num_classes)
    batches = in_batches(model, images, lambda m, x: _answer(m, x, count), preprocess, **settings)
    return _predictions(batches, names, on_error)


@dataclass(frozen=True)
class _Answer:
    classes: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    components: NDArray[np.int64] | None
    weights: NDArray[np.float32] | None


def _answer(model: PooledClassifier, inputs: Tensor, top: int) -> _Answer:
    logits, routing = model(inputs, return_routing=True)
    best = logits.float().softmax(1).topk(top)
    chosen, weights = None, None
    if isinstance(routing, Routing):
        chosen, weights = routing.indices.cpu().numpy(), routing.gates.float().cpu().numpy()
    return _Answer(best.indices.cpu().numpy(), best.values.cpu().numpy(), chosen, weights)


def _predictions(batches: Iterator[Batch[_Answer]], labels: Sequence[str], on_error: str) -> Iterator[Prediction]:
    for names, reasons, rows, answer in batches:
        for name, reason, row in zip(names, reasons, rows, strict=True):
            if answer is not None and reason is None and not np.isfinite(answer.probabilities[row]).all():
                reason = f"{printable(name)}: {NOT_FINITE}"
            if reason is not None or answer is None:
                if on_error == "stop":
                    raise DataError(reason)
                yield Prediction([], None, name, reason)
                continue
            pairs = zip(answer.classes[row].tolist(), answer.probabilities[row].tolist(), strict=True)
            components = None
            if answer.components is not None and answer.weights is not None:
                components = list(zip(answer.components[row].tolist(), answer.weights[row].tolist(), strict=True))
            yield Prediction([(labels[i], p) for i, p in pairs], components, name)
