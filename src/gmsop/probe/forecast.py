"""Guess in seconds, before anything is fitted, whether covariances tell more than means."""

from typing import NamedTuple

import numpy as np
import torch

from gmsop.nn.moments import Moments
from gmsop.probe.features import Features
from gmsop.probe.vectors import Block, kernels

IMAGES = 600
"""Training images that are looked at."""


class Forecast(NamedTuple):
    """Holds the error of the nearest neighbour, each image left out in turn, in percent; of the best layer."""

    first: float
    """By the cosine of means."""
    second: float
    """By that of covariance roots of 64 components."""

    @property
    def points(self) -> float:
        """Return the difference in percentage points; negative: covariances tell more."""
        return self.second - self.first


def forecast(features: Features, seed: int = 0) -> Forecast:
    """Compare first and second order by the nearest neighbour among some training images.

    It is a hint, and not chosen by any test image: see `docs/probe.md` for how well it ranks real gains.
    """
    learnt = np.arange(len(features)) if features.is_test is None else np.flatnonzero(~features.is_test)
    rows = np.sort(np.random.default_rng(seed).permutation(learnt)[:IMAGES])
    labels = torch.from_numpy(features.labels[rows])
    errors: dict[int, list[float]] = {1: [], 2: []}
    for layer in features.layers:
        moments = Moments.of(features.batches(layer, rows))
        dim = min(64, features.channels(layer), moments.positions - 1)
        components = moments.components(dim).float()
        for block, found in ((Block(layer, 1), None), (Block(layer, 2, dim), components)):
            similarity = kernels(features, [block], found, rows)[0]
            size = similarity.diag().sqrt().clamp(min=1e-6)
            nearest = (similarity / size / size[:, None]).fill_diagonal_(-torch.inf).argmax(1)
            errors[block.order].append(100 * float((labels[nearest] != labels).double().mean()))
    return Forecast(min(errors[1]), min(errors[2]))
