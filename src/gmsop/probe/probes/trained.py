"""Every registered head, trained on the features with a linear classifier."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from gmsop.heads import HEADS, list_heads
from gmsop.models.spec import head_options
from gmsop.nn import MultiLayerPool
from gmsop.probe.features import Features
from gmsop.probe.registry import Fold, Outcome, register_probe
from gmsop.probe.training import SETTINGS, run_trained, train

MOST = {"num_components": 4, "top_k": 2, "hidden_dim": 128}
"""Largest values of options that heads may have: few images are overfitted soon, and a probe is to take minutes."""
MOST_DIM = 64
"""Largest number of channels whose covariance is taken, for the same reasons."""


class TrainedHead(nn.Module):
    """A head on one layer and a linear classifier, as `gmsop.attach(..., layers=[layer])` has them."""

    def __init__(self, pool: MultiLayerPool, classes: int) -> None:
        super().__init__()
        self.pool, self.head_size = pool, pool.out_features
        self.fc = nn.Linear(pool.out_features, classes)

    @property
    def gate(self) -> Any:
        """The gate of a mixture; None of a head that has none."""
        return self.pool.gate

    def forward(self, x: Tensor, return_routing: bool = False) -> Any:
        if not return_routing:
            return self.fc(self.pool([x]))
        vectors, routing = self.pool([x], return_routing=True)
        return self.fc(vectors), routing


def part_of(head: str, channels: int, batch_norm: bool) -> dict[str, Any]:
    """Return the head with all its options, as one part of `gmsop.attach`'s list of heads.

    Widths are at most `MOST`; a reduction that can start from principal components does.
    """
    usual = head_options(head, channels)
    most = MOST | ({"reduced_dim": MOST_DIM} if HEADS[head].keep_resolution else {})
    own = {name: min(usual[name], most[name]) for name in most if isinstance(usual.get(name), int)}
    if "init" in usual and channels > MOST_DIM:
        own |= {"reduced_dim": MOST_DIM, "init": "pca"}
    return {"head": head, "batch_norm": batch_norm, **head_options(head, channels, **own)}


def make(features: Features, layer: str, batch_norm: bool, head: str) -> TrainedHead:
    """Build a head for a layer, with random weights."""
    options = part_of(head, features.channels(layer), batch_norm)
    for key in ("head", "batch_norm"):
        options.pop(key)
    pool = HEADS[head].build(features.channels(layer), **options)
    return TrainedHead(MultiLayerPool([pool], [batch_norm]), len(features.class_names))


def run(fold: Fold, layer: str, head: str) -> Outcome:
    """Choose rate and BatchNorm, train, and answer."""
    outcome = run_trained(fold, layer, partial(make, head=head), SETTINGS)
    norm = bool(outcome.choice.setting["batch_norm"])
    part = part_of(head, fold.features.channels(layer), norm)
    return Outcome(outcome.choice, outcome.answers, outcome.size, part=part)


def build(
    features: Features, layer: str, rows: NDArray[np.int64], outcome: Outcome, epochs: int, seed: int, head: str
) -> nn.Module:
    """Train the head with the settings chosen, on these images."""
    return train(features, layer, rows, partial(make, head=head), outcome.choice.setting, epochs, seed)


for _head in list_heads():
    register_probe(
        _head,
        partial(run, head=_head),
        order=2 if HEADS[_head].keep_resolution else 1,  # a covariance wants positions
        budget=len(SETTINGS),
        is_model=True,
        help=f"trained: {HEADS[_head].help}",
        build=partial(build, head=_head),
    )
