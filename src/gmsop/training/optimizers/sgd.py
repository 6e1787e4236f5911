"""SGD with momentum is what the paper trains with."""

from typing import Any

from gmsop.training.optimizers.registry import register_optimizer
from gmsop.training.recipe import Recipe


def settings(recipe: Recipe, momentum: float) -> dict[str, Any]:
    """Return SGD's settings: its momentum is the schedule's."""
    return {"momentum": momentum, "nesterov": recipe.nesterov}


def rescaled(rate: float, weight_decay: float, scale: float) -> tuple[float, float]:
    """Return the rate divided by the square of the scale, and the same weight decay.

    Filters divided by s have a gradient s times as large, and are themselves 1/s as large, so they want 1/s^2 of the
    rate. The weight decay stays, as in the official code; at the smaller rate it has less effect.
    """
    return rate / scale**2, weight_decay


register_optimizer("sgd", "momentum", settings, rescaled, follows_gradient=True)  # timm's "sgd" is Nesterov's
