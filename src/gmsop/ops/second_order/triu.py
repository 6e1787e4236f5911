"""These functions turn a symmetric matrix into the vector of its upper triangle, in the authors' order, and back."""

import math

import torch
from torch import Tensor

from gmsop.errors import ConfigError


def triu_vectorize(a: Tensor) -> Tensor:
    """Return the upper triangle with its diagonal, column by column.

    `out[k]` with `k = i (i + 1) / 2 + j`, `j <= i`, is element (row j, column i): the order of `torch.tril_indices`,
    not of `torch.triu_indices`. Off-diagonals are not scaled by sqrt(2). A classifier learnt by the official code
    expects its inputs in this order.

    Args:
        a: (B, D, D).

    Returns:
        (B, V), V = D (D + 1) / 2: 8256 for D = 128.

    Raises:
        ConfigError: `a` is not a batch of square matrices.
    """
    if a.dim() != 3 or a.shape[1] != a.shape[2]:
        raise ConfigError(f"triu_vectorize: expected matrices (B, D, D), got shape {tuple(a.shape)}")
    return a.flatten(1).index_select(1, triu_positions(a.shape[1], a.device))


def triu_unvectorize(v: Tensor) -> Tensor:
    """Return the symmetric matrix whose `triu_vectorize` is `v`.

    Args:
        v: (B, V), V = D (D + 1) / 2 for some D.

    Returns:
        (B, D, D), symmetric.

    Raises:
        ConfigError: V is not a triangular number, or `v` does not have two axes.
    """
    dim = (math.isqrt(8 * v.shape[-1] + 1) - 1) // 2 if v.dim() == 2 else 0
    if v.dim() != 2 or dim * (dim + 1) // 2 != v.shape[1]:
        raise ConfigError(f"triu_unvectorize: expected (B, D(D+1)/2), got shape {tuple(v.shape)}")
    return v.index_select(1, full_positions(dim, v.device)).unflatten(1, (dim, dim))


def triu_positions(dim: int, device: torch.device) -> Tensor:
    """Return, for each element of the vector, its place in the flat `dim` x `dim` matrix, (V,)."""
    column, row = torch.tril_indices(dim, dim, device=device)
    return row * dim + column


def full_positions(dim: int, device: torch.device) -> Tensor:
    """Return, for each element of the flat symmetric matrix, its place in the vector, (D * D,)."""
    i = torch.arange(dim, device=device)
    high, low = torch.maximum(i[:, None], i), torch.minimum(i[:, None], i)
    return (high * (high + 1) // 2 + low).flatten()


def triu_size(dim: int) -> int:
    """Return the number of elements in the upper triangle of a `dim` x `dim` matrix, diagonal included."""
    return dim * (dim + 1) // 2
