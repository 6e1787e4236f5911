"""The vote of the nearest training images, by the cosine of average-pooled features."""

import numpy as np
import torch
from torch import Tensor

from gmsop.probe.closed_form import BUDGET
from gmsop.probe.registry import Fold, Outcome, register_probe
from gmsop.probe.ridge import Choice
from gmsop.probe.vectors import Block

NEIGHBOURS = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50]
assert len(NEIGHBOURS) == BUDGET


def run(fold: Fold, layer: str) -> Outcome:
    """Choose the number of neighbours by leave-one-out, and answer."""
    blocks = (Block(layer, 1),)
    near = fold.train_kernel(blocks).fill_diagonal_(-torch.inf)
    labels = torch.from_numpy(fold.labels)
    found = []
    for count in NEIGHBOURS:
        wrong = float((_vote(near, labels, count, fold.classes) != labels).double().mean())
        found.append(Choice({"neighbours": count}, wrong, count))  # of equals, the fewest
    choice = min(found, key=Choice.key)
    answers = _vote(fold.test_kernel(blocks), labels, int(choice.setting["neighbours"]), fold.classes)
    return Outcome(choice, answers.numpy().astype(np.int64), fold.features.channels(layer))


def _vote(similarity: Tensor, labels: Tensor, count: int, classes: int) -> Tensor:
    """Return each row's class with the most of its nearest, each weighted by its similarity."""
    values, places = similarity.topk(min(count, similarity.shape[1] - 1), dim=1)
    votes = torch.zeros(len(similarity), classes, dtype=similarity.dtype)
    return votes.scatter_add_(1, labels[places], values + 2).argmax(
        1
    )  # a cosine is at least -1: every vote is positive


register_probe(
    "nearest", run, order=1, budget=BUDGET, help="the nearest training images, by average-pooled features (k-NN)"
)
