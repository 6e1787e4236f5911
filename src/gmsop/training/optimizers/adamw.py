"""AdamW (Loshchilov and Hutter 2019): steps of a size that does not follow the gradient's; weight decay apart."""

from typing import Any

from gmsop.training.optimizers.registry import register_optimizer
from gmsop.training.recipe import Recipe


def settings(recipe: Recipe, momentum: float) -> dict[str, Any]:
    """The schedule's momentum is the first beta, as in torch's OneCycleLR."""
    return {"betas": (momentum, recipe.optimizer_args.get("betas", (0.9, 0.999))[1])}


def rescaled(rate: float, weight_decay: float, scale: float) -> tuple[float, float]:
    """A step is as large as the rate, whatever the gradient: rate / s. It multiplies the weight decay, which is s times
    as large for the same share."""
    return rate / scale, weight_decay * scale


register_optimizer("adamw", "adamw", settings, rescaled)
