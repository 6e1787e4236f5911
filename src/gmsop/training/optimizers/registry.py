"""Optimisers are registered here by name, each with what it says of itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gmsop.training.recipe import Recipe
from gmsop.utils.registry import Registry


@dataclass(frozen=True)
class Optimizer:
    """An `Optimizer` names an optimiser, which timm builds, and says what a recipe means to it."""

    name: str
    timm_name: str
    """What `timm.optim` calls it."""
    settings: Callable[[Recipe, float], dict[str, Any]]
    """`settings(recipe, momentum)`: values of a parameter group for one step, besides rate and weight decay."""
    rescaled: Callable[[float, float, float], tuple[float, float]] | None
    """`rescaled(rate, weight_decay, scale)`: rate and weight decay with which filters divided by `scale` learn the same
    function as whole ones on inputs divided by it; None: it is not known how."""
    classifier_limit: Callable[[Tensor, int, float], float] | None = None
    """`classifier_limit(inputs, num_classes, momentum)`: the rate that a linear classifier with these inputs (B, V) can
    take at the start; None: it is not known."""


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer", "gmsop.training.optimizers")


def register_optimizer(
    name: str,
    timm_name: str,
    settings: Callable[[Recipe, float], dict[str, Any]],
    rescaled: Callable[[float, float, float], tuple[float, float]] | None,
    classifier_limit: Callable[[Tensor, int, float], float] | None = None,
) -> None:
    """Register an optimiser; see `Optimizer` for the arguments.

    Raises:
        ConfigError: the name is taken.
    """
    OPTIMIZERS.add(name, Optimizer(name, timm_name, settings, rescaled, classifier_limit))
