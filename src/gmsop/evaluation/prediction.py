"""Classify single image files."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from gmsop.data.preprocess import Preprocess
from gmsop.errors import ConfigError, DataError
from gmsop.models.classifier import PooledClassifier
from gmsop.nn import Routing
from gmsop.utils.text import printable


class Prediction(NamedTuple):
    """Holds a model's answer for one image."""

    classes: list[tuple[str, float]]
    """The likeliest classes with their probabilities, best first."""
    components: list[tuple[int, float]] | None
    """The components the gate chose (from 0) with their weights, best first; None without a gate."""


def predict(model: PooledClassifier, path: str | Path, top: int = 5, exif_orientation: bool = True) -> Prediction:
    """Classify one image file, prepared as `model.pretrained_cfg` says.

    Args:
        top: how many classes to return.
        exif_orientation: turn the image as its EXIF data says, as viewers do.

    Raises:
        DataError: the file is missing or not an image.
        ConfigError: the model has no classifier, or does not take RGB images.
    """
    cfg = model.pretrained_cfg
    if model.num_classes < 1 or cfg["input_size"][0] != 3 or model.in_chans != 3:
        raise ConfigError("predict needs a model with a classifier that takes RGB images")
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{printable(str(path))}: " + ("a folder, not an image" if path.is_dir() else "no such file"))
    preprocess = replace(Preprocess.of(cfg), exif_orientation=exif_orientation)
    pixels = torch.tensor(preprocess.read(path))
    with torch.inference_mode():
        like = next(model.parameters())
        images = preprocess.input(pixels[None].to(like.device), like.dtype)
        logits, routing = model.eval()(images, return_routing=True)
    probabilities = logits[0].float().softmax(0)
    best = probabilities.topk(min(top, model.num_classes))
    names = cfg.get("label_names") or [str(i) for i in range(model.num_classes)]
    chosen = None
    if isinstance(routing, Routing):
        chosen = list(zip(routing.indices[0].tolist(), routing.gates[0].tolist(), strict=True))
    return Prediction([(names[i], p) for p, i in zip(*map(torch.Tensor.tolist, best), strict=True)], chosen)
