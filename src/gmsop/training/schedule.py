"""Learning rate and momentum are functions of the place in a run, so there is nothing to save or restore."""

import math
from itertools import accumulate

from gmsop.training.recipe import Recipe


def rate_and_momentum(recipe: Recipe, epoch: int, step: int, steps_per_epoch: int) -> tuple[float, float]:
    """Return what the recipe's schedule gives for one step of the optimiser.

    Args:
        epoch: number of the epoch, from 0.
        step: number of the step within the epoch, from 0.
        steps_per_epoch: steps of every epoch.

    Returns:
        Share of the base learning rate, and the momentum.

    Source: GM-SOP's settings for "step"; Loshchilov and Hutter 2017 for "cosine"; Smith and Topin 2018, with the
    defaults of torch's OneCycleLR, for "one_cycle".
    """
    place = epoch * steps_per_epoch + step
    total = recipe.total_epochs * steps_per_epoch
    if recipe.schedule == "one_cycle":
        return _one_cycle(place, total)
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if recipe.schedule == "cosine":
        factor = _cosine(1.0, 0.0, max(0, place - warmup) / max(1, total - warmup))
    else:
        falls = sum(epoch >= end for end in list(accumulate(recipe.epochs_per_rate))[:-1])
        factor = recipe.lr_factor**falls
    return factor * min(1.0, (place + 1) / (warmup + 1)), recipe.momentum


def _one_cycle(place: int, total: int) -> tuple[float, float]:
    peak, end = 0.3 * total - 1, total - 1
    if place <= peak:
        share = place / peak if peak else 1.0
        return _cosine(1 / 25, 1.0, share), _cosine(0.95, 0.85, share)
    share = (place - peak) / (end - peak)
    return _cosine(1.0, 1 / 25e4, share), _cosine(0.85, 0.95, share)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
