"""Probes, the classifiers on frozen features that are compared, are registered here by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmsop.nn.moments import Moments
from gmsop.probe.features import Features
from gmsop.probe.ridge import Choice
from gmsop.probe.vectors import Block, kernels
from gmsop.utils.registry import Registry


@dataclass
class Fold:
    """Holds the images to learn from and to test on, and what several probes share."""

    features: Features
    train: NDArray[np.int64]
    """The images to learn from, in ascending order."""
    test: NDArray[np.int64]
    groups: Sequence[int]
    """Which groups of `moments` are those to learn from."""
    moments: dict[str, list[Moments]]
    """Of each layer, for each group of images."""
    dims: Sequence[int]
    """Numbers of principal components to choose from."""
    epochs: int
    """Of trained heads."""
    seed: int
    means: dict[Block, Tensor] = field(default_factory=dict)
    """Inner products of blocks of order 1, which are the same in all folds."""
    _kernels: dict[Block, Tensor] = field(default_factory=dict)
    _components: dict[str, Tensor] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        return len(self.features.class_names)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return the classes of the images to learn from."""
        return self.features.labels[self.train]

    def dims_of(self, layer: str) -> list[int]:
        """Return the numbers of components that a layer can have, of those to choose from."""
        most = min(self.features.channels(layer), self._moments(layer).positions - 1)
        return sorted({min(dim, most) for dim in self.dims})

    def _moments(self, layer: str) -> Moments:
        """Return the moments of the images to learn from."""
        return reduce(add, (self.moments[layer][group] for group in self.groups))

    def components(self, layer: str) -> Tensor:
        """Return the principal components (C, largest dim) of the images to learn from."""
        if layer not in self._components:
            self._components[layer] = self._moments(layer).components(max(self.dims_of(layer))).float()
        return self._components[layer]

    def kernel(self, blocks: Sequence[Block]) -> Tensor:
        """Return the inner products (n, n) of all images, the mean of those of the blocks, in float64."""
        for block in blocks:
            if block.order == 1 and block not in self.means:
                self.means[block] = kernels(self.features, [block], None)[0]
            if block.order == 2 and block not in self._kernels:
                siblings = [replace(block, dim=dim) for dim in sorted({block.dim, *self.dims_of(block.layer)})]
                self._kernels |= zip(
                    siblings, kernels(self.features, siblings, self.components(block.layer)), strict=True
                )
        total = sum((self.means if block.order == 1 else self._kernels)[block].double() for block in blocks)
        assert isinstance(total, Tensor)
        return total / len(blocks)

    def train_kernel(self, blocks: Sequence[Block]) -> Tensor:
        """Return the inner products of the images to learn from."""
        rows = torch.from_numpy(self.train)
        return self.kernel(blocks)[rows[:, None], rows]

    def test_kernel(self, blocks: Sequence[Block]) -> Tensor:
        """Return the inner products of the images to test on (rows) with those to learn from."""
        return self.kernel(blocks)[torch.from_numpy(self.test)[:, None], torch.from_numpy(self.train)]


@dataclass(frozen=True)
class Outcome:
    """Holds what a probe chose inside the training images of a fold, and what it answered for the test images."""

    choice: Choice
    answers: NDArray[np.int64]
    size: int
    """Length of the representation."""
    blocks: tuple[Block, ...] = ()
    """Of a probe without learnt pooling: what it stands on."""
    part: dict[str, Any] | None = None
    """Of a trained head: how `gmsop.attach` makes it."""


@dataclass(frozen=True)
class Probe:
    """A `Probe` is one way to classify from a layer's maps."""

    name: str
    order: int
    """1: built on means; 2: on covariances; 0: on neither."""
    budget: int
    """How many settings it chooses from, inside the training images."""
    help: str
    run: Callable[[Fold, str], Outcome]
    """`run(fold, layer)`."""
    is_model: bool = False
    """Whether a model can be made of it: it stands on blocks, or `build` trains it anew."""
    build: Callable[[Features, str, NDArray[np.int64], Outcome, int, int], Any] | None = None
    """Of a trained head: `build(features, layer, rows, outcome, epochs, seed)` gives pooling and classifier."""


PROBES: Registry[Probe] = Registry("probe", "gmsop.probe.probes")


def register_probe(
    name: str,
    run: Callable[[Fold, str], Outcome],
    *,
    order: int,
    budget: int,
    help: str,
    is_model: bool = False,
    build: Callable[[Features, str, NDArray[np.int64], Outcome, int, int], Any] | None = None,
) -> None:
    """Register a probe; see `Probe` for the arguments.

    Raises:
        ConfigError: the name is taken.
    """
    PROBES.add(name, Probe(name, order, budget, help, run, is_model, build))


def list_probes() -> list[str]:
    """Return the names of all probes."""
    return PROBES.names()
