"""The optimiser of a run has groups of parameters, each with its rate, decay and momentum at every step."""

from typing import Any

import timm.optim
import torch

from gmsop.errors import ConfigError, UnknownNameError
from gmsop.models import PooledClassifier
from gmsop.training.optimizers import OPTIMIZERS, Optimizer
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


def create_optimizer(model: PooledClassifier, recipe: Recipe) -> torch.optim.Optimizer:
    """Create the recipe's optimiser, with the model's parameters in three groups: the rest, the stem, the classifier.

    Raises:
        UnknownNameError, ConfigError: see `optimizer_of`; or arguments that the optimiser does not take.
    """
    entry = optimizer_of(recipe)
    backbone: Any = model.backbone
    stem, classifier = (
        [p for p in found if p.requires_grad]
        for found in (backbone.stem_parameters(), model.get_classifier().parameters())
    )
    apart = {id(p) for p in (*stem, *classifier)}
    rest = [p for p in model.parameters() if id(p) not in apart and p.requires_grad]
    groups = [{"params": p, **s} for p, s in zip((rest, stem, classifier), _rates(entry, recipe), strict=True)]
    arguments = recipe.optimizer_args | entry.settings(recipe, recipe.momentum)
    try:
        made = _TIMM.create_optimizer_v2(
            groups, entry.timm_name, recipe.lr, recipe.weight_decay, arguments.pop("momentum", 0.9), **arguments
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"recipe: optimizer {recipe.optimizer} with {recipe.optimizer_args}: {error}") from error
    if ignored := sorted(set(recipe.optimizer_args) - set(made.defaults)):  # timm drops these without a word
        raise ConfigError(f"recipe: optimizer {recipe.optimizer} has no argument {', '.join(ignored)}")
    return made


def set_step(optimizer: torch.optim.Optimizer, recipe: Recipe, factor: float, momentum: float) -> None:
    """Set all that the recipe says of the optimiser, for one step, whatever a checkpoint said before.

    Args:
        factor: the schedule's share of the base learning rate.
        momentum: the schedule's momentum.
    """
    entry = optimizer_of(recipe)
    for group, base in zip(optimizer.param_groups, _rates(entry, recipe), strict=True):
        group.update(entry.settings(recipe, momentum), lr=factor * base["lr"], weight_decay=base["weight_decay"])


def _rates(entry: Optimizer, recipe: Recipe) -> list[dict[str, float]]:
    """Return base rate and weight decay of the rest, the stem and the classifier."""
    rate, decay = recipe.lr, recipe.weight_decay
    stem = (rate, decay) if entry.rescaled is None else entry.rescaled(rate, decay, recipe.stem_scale)
    rates = ((rate, decay), stem, (rate * recipe.classifier_lr_scale, decay))
    return [{"lr": lr, "weight_decay": weight_decay} for lr, weight_decay in rates]
