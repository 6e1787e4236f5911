"""SGD with momentum, as the paper trains."""

from typing import Any

from gmsop.training.optimizers.registry import register_optimizer
from gmsop.training.recipe import Recipe


def settings(recipe: Recipe, momentum: float) -> dict[str, Any]:
    """SGD's momentum is the schedule's."""
    return {"momentum": momentum, "nesterov": recipe.nesterov}


def rescaled(rate: float, weight_decay: float, scale: float) -> tuple[float, float]:
    """The gradient of filters divided by s is s times as large, and they themselves a share of 1/s: rate / s^2.

    The weight decay stays, as in the official code, and is felt the less.
    """
    return rate / scale**2, weight_decay


register_optimizer("sgd", "momentum", settings, rescaled)  # timm's "sgd" has Nesterov's momentum
