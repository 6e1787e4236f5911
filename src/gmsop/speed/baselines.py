"""Compute the head's numbers in other ways; they are here only to measure the head against them."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gmsop.ops import eigh_sqrt, triu_vectorize


def plain_covariance(x: Tensor) -> Tensor:
    """Compute the covariance (B, D, D) of (B, D, M) in two lines, differentiated by autograd."""
    centred = x - x.mean(2, keepdim=True)
    return torch.bmm(centred, centred.mT) / x.shape[2]


def plain_sqrt(cov: Tensor, num_iters: int = 3) -> Tensor:
    """Run Newton-Schulz iterations as the paper writes them, batched, differentiated by autograd."""
    identity = torch.eye(cov.shape[1], device=cov.device, dtype=cov.dtype)
    trace = cov.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    y, z = cov / trace, identity.expand_as(cov)
    for i in range(num_iters):
        p = 0.5 * (3 * identity - torch.bmm(z, y)) if i else 0.5 * (3 * identity - y)
        if i < num_iters - 1:
            z = torch.bmm(p, z) if i else p
        y = torch.bmm(y, p)
    return trace.sqrt() * y


def plain(x: Tensor, num_iters: int = 3) -> Tensor:
    """Compute second-order pooling with plain PyTorch autograd."""
    return triu_vectorize(plain_sqrt(plain_covariance(x), num_iters))


def eigh(x: Tensor, num_iters: int = 3) -> Tensor:
    """Compute the exact root by eigendecomposition. Its numbers are others; only its time is compared."""
    return triu_vectorize(eigh_sqrt(plain_covariance(x)))


def torch_root(x: Tensor, num_iters: int = 3) -> Tensor:
    """Compute the exact root by PyTorch's own function, from 2.14 on."""
    root: Any = torch.linalg
    return triu_vectorize(root.matrix_sqrth(plain_covariance(x)))


def stored(x: Tensor, num_iters: int = 3) -> Tensor:
    """Compute second-order pooling the way the public fast MPN-COV layer does.

    That is: a centring matrix of M x M, every iterate kept, eighteen products backward for three iterations, and a
    Python loop over the batch.
    """
    return triu_vectorize(_StoredSqrt.apply(_CentringCovariance.apply(x), num_iters))


class _CentringCovariance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        m = x.shape[2]
        centring = torch.eye(m, device=x.device, dtype=x.dtype) / m - 1 / m**2
        centring = centring.expand(len(x), m, m)
        ctx.save_for_backward(x, centring)
        return x.bmm(centring).bmm(x.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, centring = ctx.saved_tensors
        return (grad + grad.mT).bmm(x).bmm(centring)


class _StoredSqrt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cov: Tensor, num_iters: int) -> Tensor:
        identity = torch.eye(cov.shape[1], device=cov.device, dtype=cov.dtype).expand_as(cov)
        trace = cov.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        a = cov / trace
        ys, zs = [a], [identity]
        for _ in range(num_iters):
            p = 0.5 * (3 * identity - zs[-1].bmm(ys[-1]))
            ys.append(ys[-1].bmm(p))
            zs.append(p.bmm(zs[-1]))
        ctx.save_for_backward(trace, *ys, *zs)
        return trace.sqrt() * ys[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        trace, *iterates = ctx.saved_tensors
        ys, zs = iterates[: len(iterates) // 2], iterates[len(iterates) // 2 :]
        identity = torch.eye(grad.shape[1], device=grad.device, dtype=grad.dtype)
        dy, dz = trace.sqrt() * grad, torch.zeros_like(grad)
        for y, z in zip(reversed(ys[:-1]), reversed(zs[:-1]), strict=True):
            p = 0.5 * (3 * identity - z.bmm(y))
            dp = y.bmm(dy) + dz.bmm(z)
            dy, dz = dy.bmm(p) - 0.5 * z.bmm(dp), p.bmm(dz) - 0.5 * dp.bmm(y)
        out = dy / trace
        for b in range(len(out)):  # add the gradient through the trace, image by image
            of_root = 0.5 * (grad[b] * ys[-1][b]).sum() / trace[b, 0, 0].sqrt()
            of_scale = (dy[b] * ys[0][b]).sum() / trace[b, 0, 0]
            out[b] += (of_root - of_scale) * identity
        return out, None
