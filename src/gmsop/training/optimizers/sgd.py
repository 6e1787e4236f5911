"""SGD with momentum is what the paper trains with."""

from typing import Any

from torch import Tensor

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


SAFETY = 4.0
"""Times that the classifier's rate stays below what overshoots at the start, with full batches."""


def classifier_limit(inputs: Tensor, num_classes: int, momentum: float) -> float:
    """Return a rate below that at which gradient descent with momentum overshoots.

    While predictions are uniform over C classes, the curvature of the mean cross-entropy along the classifier's weights
    is (1/C) times the largest eigenvalue of E[x x^T], x being its inputs. Gradient descent with momentum m overshoots
    at rates above 2 (1 + m) / curvature. In training the eigenvalue grows towards the mean square, E|x|^2, which bounds
    it; so that is taken for it, and a quarter of the rate.
    """
    return 2 * (1 + momentum) * num_classes / inputs.double().square().sum(1).mean().item() / SAFETY


register_optimizer("sgd", "momentum", settings, rescaled, classifier_limit)  # timm's "sgd" is Nesterov's
