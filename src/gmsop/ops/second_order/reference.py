"""This is the slow, obvious version of every second-order operator, with which the tests compare.

It is written to be read next to the paper: one image at a time, plain autograd, no special cases. Give it float64.
"""

import torch
from torch import Tensor


def covariance_pool(x: Tensor) -> Tensor:
    """Return the covariances, (B, D, D), of features (B, D, M)."""
    out = []
    for features in x.flatten(2):
        centred = features - features.mean(1, keepdim=True)
        out.append(centred @ centred.T / features.shape[1])
    return torch.stack(out)


def newton_schulz_sqrt(cov: Tensor, num_iters: int = 3) -> Tensor:
    """Return the approximate square roots, (B, D, D), of matrices (B, D, D)."""
    out = []
    for sigma in cov:
        identity = torch.eye(len(sigma), dtype=sigma.dtype, device=sigma.device)
        trace = sigma.trace()
        y, z = sigma / trace, identity
        for _ in range(num_iters):
            p = (3 * identity - z @ y) / 2
            y, z = y @ p, p @ z
        out.append(trace.sqrt() * y)
    return torch.stack(out)


def eigh_sqrt(cov: Tensor) -> Tensor:
    """Return the exact square roots, (B, D, D); the gradient is only right for distinct positive eigenvalues."""
    out = []
    for sigma in cov:
        values, vectors = torch.linalg.eigh(sigma)
        out.append(vectors @ torch.diag(values.sqrt()) @ vectors.T)
    return torch.stack(out)


def triu_vectorize(a: Tensor) -> Tensor:
    """Return the upper triangles, (B, V), of matrices (B, D, D)."""
    dim = a.shape[1]
    return torch.stack([a[:, row, column] for column in range(dim) for row in range(column + 1)], 1)
