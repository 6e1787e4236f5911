"""First and second moments of features over all positions, and their principal components."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gmsop.errors import ConfigError


@dataclass(frozen=True)
class Moments:
    """Holds the sums of x and x x^T over positions, in float64. Those of disjoint sets of images add up."""

    square: Tensor
    """(C, C)."""
    total: Tensor
    """(C,)."""
    positions: int

    @classmethod
    def of(cls, maps: Iterable[Tensor]) -> "Moments":
        """Go through batches of maps (B, C, H, W) once.

        Raises:
            ConfigError: there is no map.
        """
        found: Moments | None = None
        for x in maps:
            rows = x.flatten(2).transpose(1, 2).reshape(-1, x.shape[1])
            rows = rows.to(torch.promote_types(x.dtype, torch.float32))
            one = cls((rows.T @ rows).double(), rows.sum(0, dtype=torch.float64), len(rows))
            found = one if found is None else found + one
        if found is None:
            raise ConfigError("principal components: no map of features")
        return found

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.square + other.square, self.total + other.total, self.positions + other.positions)

    def components(self, count: int) -> Tensor:
        """Return the first principal components (C, count), in float64; the largest element of each is positive.

        Raises:
            ConfigError: there are no more positions than components.
        """
        if self.positions <= count:
            raise ConfigError(f"{self.positions} positions of features do not have {count} principal components")
        mean = self.total / self.positions
        vectors = torch.linalg.eigh(self.square / self.positions - mean[:, None] * mean)[1][:, -count:].flip(1)
        return vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
