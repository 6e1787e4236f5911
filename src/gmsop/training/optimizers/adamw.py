"""AdamW (Loshchilov and Hutter 2019) takes steps whose size does not follow the gradient's; weight decay is apart."""

from typing import Any

from torch import Tensor

from gmsop.training.optimizers.registry import register_optimizer
from gmsop.training.recipe import Recipe


def settings(recipe: Recipe, momentum: float) -> dict[str, Any]:
    """Return AdamW's settings: the schedule's momentum is the first beta, as in torch's OneCycleLR."""
    return {"betas": (momentum, recipe.optimizer_args.get("betas", (0.9, 0.999))[1])}


def rescaled(rate: float, weight_decay: float, scale: float) -> tuple[float, float]:
    """Return the rate divided by the scale, and the weight decay multiplied by it.

    A step is as large as the rate, whatever the gradient, so filters that are 1/s as large want 1/s of the rate. The
    rate also multiplies the weight decay, which must be s times as large to take the same share of the filters.
    """
    return rate / scale, weight_decay * scale


def classifier_limit(inputs: Tensor, num_classes: int, momentum: float) -> float:
    """Return the rate at which a first step changes a logit by 1.

    A step is as large as the rate in every weight, whatever the gradient, so a logit changes by up to rate * |x|_1.
    """
    return 1 / inputs.double().abs().sum(1).mean().item()


register_optimizer("adamw", "adamw", settings, rescaled, classifier_limit)
