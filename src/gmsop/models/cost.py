"""`card` computes the size of a named model, which `gmsop models` lists."""

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from gmsop.models.names import create_model
from gmsop.models.published import RESULTS, Result


class Card(NamedTuple):
    """A card holds the size of a named model, and its published results."""

    name: str
    parameters: int
    """Learnable numbers, BatchNorm's running statistics not counted."""
    gflops: float
    """Floating-point operations of one image's forward pass in billions, counted while it runs; a multiply-add is 2."""
    representation: int
    """Length of the vector before the classifier."""
    results: tuple[Result, ...]


def card(name: str, image_size: int = 64, num_classes: int = 1000) -> Card:
    """Count a model's parameters and operations. Only shapes are computed, which takes no memory and little time.

    Raises:
        UnknownNameError: no model of that name.
    """
    with torch.device("meta"):
        model = create_model(name, num_classes).eval()
        image = torch.empty(1, 3, image_size, image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return Card(
        name=name,
        parameters=sum(p.numel() for p in model.parameters()),
        gflops=counter.get_total_flops() / 1e9,
        representation=model.head_hidden_size,
        results=tuple(r for r in RESULTS if r.model == name),
    )
