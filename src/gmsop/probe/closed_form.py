"""Fit ridge classifiers on blocks, their settings chosen by leave-one-out."""

from collections.abc import Sequence
from dataclasses import replace

from gmsop.probe.registry import Fold, Outcome
from gmsop.probe.ridge import Choice, RidgePath, best_penalty
from gmsop.probe.vectors import Block

BUDGET = 16
"""Settings that every probe without learnt pooling chooses from."""


def penalties(count: int) -> list[float]:
    """Return penalties from 1e-4 to 10, evenly spaced in their logarithm. Vectors have norm 1."""
    return [10 ** (-4 + 5 * i / (count - 1)) for i in range(count)]


def fit_best(fold: Fold, candidates: Sequence[Sequence[Block]]) -> Outcome:
    """Choose among several sets of blocks, and penalties for each, at most `BUDGET` settings in all; then answer."""
    each = penalties(max(2, BUDGET // len(candidates)))
    found: list[tuple[Choice, RidgePath, tuple[Block, ...]]] = []
    for blocks in candidates:
        path = RidgePath.of(fold.train_kernel(blocks), fold.labels, fold.classes)
        found.append((best_penalty(path, fold.labels, each), path, tuple(blocks)))
    choice, path, blocks = min(found, key=lambda one: one[0].key())
    scores = path.scores(fold.test_kernel(blocks), choice.setting["penalty"])
    if any(block.order == 2 for block in blocks):
        choice = replace(choice, setting={**choice.setting, "dim": max(block.dim for block in blocks)})
    size = sum(block.size(fold.features.channels(block.layer)) for block in blocks)
    return Outcome(choice, scores.argmax(1).numpy(), size, blocks)
