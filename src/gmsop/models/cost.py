"""Count what models take, for `gmsop models`."""

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from gmsop.errors import ConfigError
from gmsop.models.attach import attach
from gmsop.models.classifier import PooledClassifier
from gmsop.models.names import create_model
from gmsop.models.published import RESULTS, Result
from gmsop.utils.text import first_line


class Card(NamedTuple):
    """A card holds the size of a model, and its published results."""

    name: str
    parameters: int
    """Learnable numbers, BatchNorm's running statistics not counted."""
    gflops: float
    """Floating-point operations of one image's forward pass in billions, counted while it runs; a multiply-add is 2."""
    representation: int
    """Length of the vector before the classifier."""
    results: tuple[Result, ...]


def card(name: str, image_size: int = 64, num_classes: int = 1000) -> Card:
    """Count a named model's parameters and operations. Only shapes are computed, in no memory and little time.

    Raises:
        UnknownNameError: no model of that name.
    """
    with torch.device("meta"):
        model = create_model(name, num_classes)
    return _count(name, model, image_size, tuple(r for r in RESULTS if r.model == name))


def attached_card(backbone: str, head: str, image_size: int | None = None, num_classes: int = 1000) -> Card:
    """Count the parameters and operations of a head on a timm backbone, as `gmsop.attach` puts it there.

    Args:
        image_size: height and width of the image, in pixels; None: the backbone's own.

    Raises:
        UnknownNameError: timm has no such model, or gmsop no such head.
        ConfigError: the backbone has no features to pool, or does not take images of that size.
    """
    with torch.device("meta"):
        model = attach(backbone, head, num_classes)
    size = image_size or model.pretrained_cfg["input_size"][1]
    try:
        return _count(head, model, size, ())
    except (AssertionError, RuntimeError) as error:  # how timm's models refuse a size
        raise ConfigError(f"{backbone} does not take images of {size} pixels: {first_line(error)}") from error


def _count(name: str, model: PooledClassifier, image_size: int, results: tuple[Result, ...]) -> Card:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, model.in_chans, image_size, image_size, device="meta"))
    return Card(
        name=name,
        parameters=sum(p.numel() for p in model.parameters()),
        gflops=counter.get_total_flops() / 1e9,
        representation=model.head_hidden_size,
        results=results,
    )
