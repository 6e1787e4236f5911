"""The optimiser of a run has groups of parameters, each with its rate, decay and momentum at every step."""

from typing import Any

import timm.optim
import torch

from gmsop.errors import ConfigError, UnknownNameError
from gmsop.models import PooledClassifier
from gmsop.training.optimizers import OPTIMIZERS, Optimizer
from gmsop.training.parameter_groups import Group, parameter_groups
from gmsop.training.recipe import Recipe

_TIMM: Any = timm.optim  # timm.optim does not say what it exports


def optimizer_of(recipe: Recipe) -> Optimizer:
    """Return what is known of the recipe's optimiser: one of gmsop's, or one of timm's by its name there.

    Raises:
        UnknownNameError: neither has it; the text lists the nearest names.
        ConfigError: stem_scale is not 1, and how this optimiser's rate follows it is not known.
    """
    if recipe.optimizer in OPTIMIZERS:
        return OPTIMIZERS[recipe.optimizer]
    others = [str(name) for name in _TIMM.list_optimizers()]
    if recipe.optimizer not in others:
        raise UnknownNameError.of("optimizer", recipe.optimizer, {*OPTIMIZERS.names(), *others})
    if recipe.stem_scale != 1:
        raise ConfigError(
            f"recipe: stem_scale {recipe.stem_scale:g} with optimizer {recipe.optimizer}: how its rate should follow "
            f"is not known. Use stem_scale 1 with normalize mean_std, or one of {', '.join(OPTIMIZERS.names())}"
        )
    return Optimizer(recipe.optimizer, recipe.optimizer, lambda recipe, momentum: {}, None)


def create_optimizer(
    model: PooledClassifier, recipe: Recipe, classifier_share: float | None = None
) -> torch.optim.Optimizer:
    """Create the recipe's optimiser, with the model's parameters in groups: see `parameter_groups`.

    Args:
        classifier_share: what `classifier_lr_scale: auto` was found to be; 1 where it is not known yet.

    Raises:
        UnknownNameError, ConfigError: see `optimizer_of`; or arguments that the optimiser does not take.
    """
    entry = optimizer_of(recipe)
    if classifier_share is None:
        classifier_share = recipe.classifier_lr_scale if recipe.classifier_lr_scale != "auto" else 1.0
    parts = parameter_groups(model, recipe, classifier_share)
    groups = [{"params": part.params, **rates_of(part, recipe)} for part in parts]
    arguments = recipe.optimizer_args | entry.settings(recipe, recipe.momentum)
    try:
        made = _TIMM.create_optimizer_v2(
            groups, entry.timm_name, recipe.lr, recipe.weight_decay, arguments.pop("momentum", 0.9), **arguments
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"recipe: optimizer {recipe.optimizer} with {recipe.optimizer_args}: {error}") from error
    if ignored := sorted(set(recipe.optimizer_args) - set(made.defaults)):  # timm drops these without a word
        raise ConfigError(f"recipe: optimizer {recipe.optimizer} has no argument {', '.join(ignored)}")
    made.gmsop_groups = parts  # beside what a checkpoint holds, so that a changed recipe counts when a run goes on
    return made


def set_step(optimizer: torch.optim.Optimizer, recipe: Recipe, factor: float, momentum: float) -> None:
    """Set all that the recipe says of the optimiser, for one step, whatever a checkpoint said before.

    Args:
        optimizer: of `create_optimizer`.
        factor: the schedule's share of the base learning rate.
        momentum: the schedule's momentum.
    """
    entry, own = optimizer_of(recipe), optimizer
    for group, part in zip(own.param_groups, groups_of(own), strict=True):
        base = rates_of(part, recipe)
        group.update(entry.settings(recipe, momentum), lr=factor * base["lr"], weight_decay=base["weight_decay"])


def groups_of(optimizer: torch.optim.Optimizer) -> list[Group]:
    """Return the groups of an optimiser of `create_optimizer`, in its order."""
    own: Any = optimizer
    return list(own.gmsop_groups)


def rates_of(part: Group, recipe: Recipe) -> dict[str, float]:
    """Return base rate and weight decay of a group."""
    rate, decay, rescaled = recipe.lr * part.lr_scale, part.weight_decay, optimizer_of(recipe).rescaled
    if part.is_stem and rescaled is not None:
        rate, decay = rescaled(rate, decay, recipe.stem_scale)
    return {"lr": rate, "weight_decay": decay}
