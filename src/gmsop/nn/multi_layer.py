"""Several layers' maps, each pooled on its own, are set beside each other."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmsop.errors import ConfigError
from gmsop.nn.gate import TopKGate

NORM = 8.0
"""Euclidean norm of every layer's vector: that of a covariance root of 64 channels of variance 1."""


class MultiLayerPool(nn.Module):
    """Pool each map by its own module, and concatenate, ((B, C1, H1, W1), (B, C2, H2, W2), ...) -> (B, V1 + V2 + ...).

    Every vector is scaled to the same Euclidean norm first, image by image, so that no layer drowns another; a vector
    of zeros stays one.

    Args:
        pools: one module per map, each with `out_features`.
        batch_norm: whether BatchNorm follows each of them, before the scaling.

    Raises:
        ConfigError: no module; more than one mixture; in `forward`, another number of maps.
    """

    def __init__(self, pools: Sequence[nn.Module], batch_norm: Sequence[bool] | None = None) -> None:
        super().__init__()
        normed = [False] * len(pools) if batch_norm is None else list(batch_norm)
        if not pools or len(normed) != len(pools):
            raise ConfigError(f"MultiLayerPool: got {len(pools)} modules and {len(normed)} times batch_norm")
        sizes = [int(cast(Any, pool).out_features) for pool in pools]
        self.pools = nn.ModuleList(pools)
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(size) if norm else nn.Identity() for size, norm in zip(sizes, normed, strict=True)
        )
        self.out_features = sum(sizes)
        if sum(getattr(pool, "gate", None) is not None for pool in pools) > 1:
            raise ConfigError("MultiLayerPool: one mixture at most: the balance loss is of one gate")

    @property
    def gate(self) -> TopKGate | None:
        """The gate of the mixture, if one of the layers has one."""
        gates = (getattr(pool, "gate", None) for pool in self.pools)
        return cast("TopKGate | None", next((gate for gate in gates if gate is not None), None))

    def forward(self, maps: Sequence[Tensor], return_routing: bool = False) -> Any:
        if len(maps) != len(self.pools):
            raise ConfigError(f"MultiLayerPool: expected {len(self.pools)} maps, got {len(maps)}")
        vectors, routing = [], None
        for x, pool, norm in zip(maps, self.pools, self.norms, strict=True):
            if return_routing and getattr(pool, "gate", None) is not None:
                vector, routing = pool(x, return_routing=True)
            else:
                vector = pool(x)
            vectors.append(to_norm(norm(vector)))
        pooled = torch.cat(vectors, 1)
        return (pooled, routing) if return_routing else pooled


def to_norm(vectors: Tensor) -> Tensor:
    """Scale vectors (B, V) to the norm that those of `MultiLayerPool` have."""
    wide = torch.promote_types(vectors.dtype, torch.float32)  # a sum of squares in float16 may be too large
    return (NORM * F.normalize(vectors.to(wide), dim=1, eps=1e-6)).to(vectors.dtype)
