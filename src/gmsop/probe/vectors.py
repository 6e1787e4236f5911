"""Pool a layer's maps to vectors without learning, but for principal components: by the mean, or second order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gmsop.nn.pooling import GlobalAvgPool, ISqrtCovPool
from gmsop.ops import triu_size
from gmsop.probe.features import Features


@dataclass(frozen=True)
class Block:
    """Says how one layer is pooled. Several blocks beside each other make a representation."""

    layer: str
    order: int
    """1: the mean over positions. 2: covariance and its root, after a projection to principal components."""
    dim: int = 0
    """Of order 2: how many components."""
    root: str = "newton_schulz"
    """Of order 2: see `ISqrtCovPool`."""

    def __str__(self) -> str:
        root = "" if self.root == "newton_schulz" else f" ({self.root})"
        return f"{'average' if self.order == 1 else f'second order {self.dim}{root}'} of {self.layer}"

    def size(self, channels: int) -> int:
        """Return the length of the vector, given the layer's channels."""
        return channels if self.order == 1 else triu_size(self.dim)


def pooled(
    features: Features, blocks: Sequence[Block], components: Tensor | None, rows: NDArray[np.int64] | None = None
) -> list[Tensor]:
    """Return the vectors (n, V) of blocks of one layer, each of norm 1, in float32; the maps are read once.

    Args:
        components: of order 2, the principal components (C, at least the largest `dim`).
        rows: which images; None: all.
    """
    found: list[list[Tensor]] = [[] for _ in blocks]
    for x in features.batches(blocks[0].layer, rows):
        projected = x
        if components is not None:
            most = max(block.dim for block in blocks)
            projected = F.conv2d(x, components[:, :most].T[:, :, None, None])
        for block, parts in zip(blocks, found, strict=True):
            pool = GlobalAvgPool() if block.order == 1 else ISqrtCovPool(root=block.root)  # type: ignore[arg-type]
            vectors = pool(projected[:, : block.dim] if block.order == 2 else x)
            parts.append(F.normalize(vectors, dim=1, eps=1e-6))
    return [torch.cat(parts) for parts in found]


def balanced(vectors: Tensor, block: Block) -> Tensor:
    """Scale the elements off the diagonal by sqrt(2), so that inner products are those of the whole matrices."""
    return vectors * off_diagonal_scale(block, vectors.shape[1])


def off_diagonal_scale(block: Block, size: int) -> Tensor:
    """Return the factors (V,) of `balanced`: 1 for a mean and on the diagonal, sqrt(2) elsewhere."""
    scale = torch.ones(size)
    if block.order == 2:
        rows, columns = torch.tril_indices(block.dim, block.dim)  # the order of `triu_vectorize`
        scale[rows != columns] = 2**0.5
    return scale


def kernels(
    features: Features, blocks: Sequence[Block], components: Tensor | None, rows: NDArray[np.int64] | None = None
) -> list[Tensor]:
    """Return the inner products (n, n) of all images' vectors, or some, for each of several blocks of one layer."""
    found = []
    for block, vectors in zip(blocks, pooled(features, blocks, components, rows), strict=True):
        scaled = balanced(vectors, block)
        found.append(scaled @ scaled.T)
    return found
