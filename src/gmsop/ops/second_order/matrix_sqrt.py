"""These functions take square roots of symmetric positive semi-definite matrices, (B, D, D) to (B, D, D).

`newton_schulz_sqrt` is the approximate root the paper trains with: matrix products only. `eigh_sqrt` is the exact one.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gmsop.errors import ConfigError
from gmsop.ops.observers import is_transformed
from gmsop.ops.precision import at_least_float32, no_autocast


def newton_schulz_sqrt(cov: Tensor, num_iters: int = 3) -> Tensor:
    """Return the approximate square root by Newton-Schulz iterations, with trace normalisation and compensation.

    With s = trace(cov), A = cov / s, Y_0 = A, Z_0 = I:

        M = Z Y,   Y <- (3 Y - Y M) / 2,   Z <- (3 Z - M Z) / 2      num_iters times
        result = sqrt(s) Y

    which is the official `P = (3I - Z Y) / 2; Y <- Y P; Z <- P Z` without ever forming P. Three iterations take six
    products of D x D: the first needs one because Z_0 = I, the last leaves Z out.

    A matrix of zero trace (a constant map) gives zeros and a zero gradient; the official code divides by the trace and
    gives NaN there.

    Args:
        cov: (B, D, D), positive semi-definite; only its symmetric part counts. Half precision is computed in float32.
        num_iters: number of iterations T, at least 1. The published models all use 3.

    Returns:
        (B, D, D), symmetric, and so is the gradient.

    Raises:
        ConfigError: `cov` is not a batch of square matrices, or `num_iters` is below 1.

    Source: Li et al., "Towards Faster Training of Global Covariance Pooling Networks by Iterative Matrix Square Root
    Normalization" (CVPR 2018), equations 2 to 5; GM-SOP (NeurIPS 2018), equation 4. `iterations_backward`
    explains the backward pass. Pooling layers use `second_order_pool` instead, which is faster.
    """
    _require_square("newton_schulz_sqrt", cov)
    if num_iters < 1:
        raise ConfigError(f"newton_schulz_sqrt: num_iters must be at least 1, got {num_iters}")
    with no_autocast(cov):
        cov = at_least_float32(cov)
        cov = torch.lerp(cov, cov.mT, 0.5)
        return _newton_schulz(cov, num_iters) if is_transformed() else _NewtonSchulzSqrt.apply(cov, num_iters)


def eigh_sqrt(cov: Tensor) -> Tensor:
    """Return the exact square root, by eigendecomposition.

    Eigenvalues below `D * eps * largest` are numerically zero and their root is taken as zero. The gradient divides by
    sums of roots, never by differences of eigenvalues, and is zero inside the null space: it is finite for repeated and
    for zero eigenvalues, where differentiating `torch.linalg.eigh` gives NaN.

    Args:
        cov: (B, D, D), positive semi-definite; only its symmetric part counts. Half precision is computed in float32.

    Returns:
        (B, D, D), symmetric.

    Raises:
        ConfigError: `cov` is not a batch of square matrices.

    Source: Higham, "Functions of Matrices" (2008), theorem 3.11 (Daleckii-Krein) for the derivative.
    """
    _require_square("eigh_sqrt", cov)
    with no_autocast(cov):
        return _EighSqrt.apply(at_least_float32(cov))[0]


def _require_square(name: str, cov: Tensor) -> None:
    if cov.dim() != 3 or cov.shape[1] != cov.shape[2] or not cov.is_floating_point():
        raise ConfigError(
            f"{name}: expected floating-point matrices (B, D, D), got {cov.dtype} of shape {tuple(cov.shape)}"
        )


def normalise_(cov: Tensor) -> Tensor:
    """Divide `cov` by its trace, in place, and return the trace, (B, 1). A zero trace leaves zeros; NaN stays NaN."""
    trace = cov.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
    cov.div_(not_zero(trace)[:, :, None])
    return trace


def not_zero(trace: Tensor) -> Tensor:
    """Return what to divide by: the trace, or the smallest normal number if it is zero."""
    return trace.clamp(min=torch.finfo(trace.dtype).tiny)


def through_trace_(d: Tensor, g_dot_root: Tensor, a: Tensor) -> Tensor:
    """Turn a gradient with respect to A into dL/dcov, in place, and return it.

    With s the trace of cov, A = cov / s, the root R = sqrt(s) Y_T(A) and G = dL/dR / sqrt(s):

        dL/dcov = D + (<G, Y_T> / 2 - <D, A>) I

    Args:
        d: D, symmetric: the gradient that `iterations_backward` gives for G.
        g_dot_root: <G, Y_T>, (B,).
        a: A.
    """
    shift = 0.5 * g_dot_root - _inner(d, a)
    d.diagonal(dim1=1, dim2=2).add_(shift[:, None])
    return d


def iterations(a: Tensor, num_iters: int) -> Tensor:
    """Return Y after `num_iters` coupled steps from Y = A, Z = I."""
    if num_iters == 1:
        return torch.baddbmm(a, a, a, beta=1.5, alpha=-0.5)
    y, z = _iterates(a, num_iters - 1)[-1]
    return torch.baddbmm(y, y, torch.bmm(z, y), beta=1.5, alpha=-0.5)


def iterations_backward(a: Tensor, g: Tensor, num_iters: int) -> tuple[Tensor, Tensor]:
    """Return the gradient with respect to A, and <g, Y_T>, (B,), for symmetric g = dL/dY_T.

    The iterates are computed again, not kept.

    Every iterate is a polynomial of the symmetric matrix A: all are symmetric and commute, and a symmetric change of A
    changes each of them symmetrically. So gradients may be symmetrised at any point, and wherever the product rule
    gives a two-sided sum W G + G W, it is X + X^T with the one product X = W G. For a step Y' = (3Y - Y Z Y) / 2,
    Z' = (3Z - Z Y Z) / 2 with gradients G, H of Y', Z' and the shared factors U = Y G, V = Z H:

        dL/dY = (3G - (Z U + (Z U)^T) - V Z) / 2
        dL/dZ = (3H - (Y V + (Y V)^T) - U Y) / 2

    The last step has H = 0 and takes three products, each middle step six, the first (Z_0 = I) one: ten for T = 3, and
    four more to rebuild the iterates. Plain autograd spends two per forward product.
    """
    pairs = _iterates(a, num_iters - 1)
    h: Tensor | None = None
    if pairs:
        y, z = pairs.pop()
        u = torch.bmm(y, g)
        ygy = torch.bmm(u, y)
        g_dot_root = 1.5 * _inner(g, y) - 0.5 * _inner(ygy, z)
        g, h = _symmetric_step(g, z, u), ygy.mul_(-0.5)
    else:
        g_dot_root = 1.5 * _inner(g, a) - 0.5 * _inner(torch.bmm(a, g), a)
    while pairs:
        assert h is not None
        y, z = pairs.pop()
        u, v = torch.bmm(y, g), torch.bmm(z, h)
        g = torch.baddbmm(_symmetric_step(g, z, u), v, z, alpha=-0.5)
        h = torch.baddbmm(_symmetric_step(h, y, v), u, y, alpha=-0.5)
    d = _symmetric_step(g, a, g)
    return d if h is None else torch.sub(d, h, alpha=0.5), g_dot_root


def _iterates(a: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
    """Return (Y_i, Z_i) for i = 1 .. count. The addition of each step is folded into its product."""
    identity = torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
    pairs: list[tuple[Tensor, Tensor]] = []
    for i in range(count):
        if i == 0:
            pairs.append((torch.baddbmm(a, a, a, beta=1.5, alpha=-0.5), torch.sub(1.5 * identity, a, alpha=0.5)))
            continue
        y, z = pairs[-1]
        m = torch.bmm(z, y)
        pairs.append((torch.baddbmm(y, y, m, beta=1.5, alpha=-0.5), torch.baddbmm(z, m, z, beta=1.5, alpha=-0.5)))
    return pairs


def _symmetric_step(g: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return (3 g - (L R + (L R)^T)) / 2 for symmetric g."""
    half = torch.baddbmm(g, left, right, beta=0.75, alpha=-0.5)
    return half + half.mT


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Return <a, b> of each matrix, (B,)."""
    return torch.linalg.vecdot(a.flatten(1), b.flatten(1))


def _newton_schulz(cov: Tensor, num_iters: int) -> Tensor:
    """Compute the root by functions that `torch.func` can transform: none in place, none with an `out`."""
    trace = cov.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    flat = trace == 0
    root = torch.where(flat, 0, torch.where(flat, 1, trace).sqrt())  # so its gradient at zero is finite
    # Not mul_: if an autograd.Function changes its own output, torch.compile of PyTorch 2.11 loses the gradient.
    return iterations(cov / not_zero(trace), num_iters) * root


class _NewtonSchulzSqrt(torch.autograd.Function):
    """Compute the root of a symmetric `cov`; the gradient is that of `iterations_backward`."""

    @staticmethod
    def forward(cov: Tensor, num_iters: int) -> Tensor:
        return _newton_schulz(cov, num_iters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        cov, ctx.num_iters = inputs
        ctx.save_for_backward(cov)  # not the output: PyTorch 2.9 could not export that

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (cov,) = ctx.saved_tensors
        with no_autocast(cov):
            a = cov.clone()
            trace = normalise_(a)
            inverse_root = torch.where(trace == 0, 0, not_zero(trace).rsqrt())
            g = (grad + grad.mT) * (0.5 * inverse_root[:, :, None])
            d, g_dot_root = iterations_backward(a, g, ctx.num_iters)
            return through_trace_((d + d.mT).mul_(0.5), g_dot_root, a), None


class _EighSqrt(torch.autograd.Function):
    """Compute the exact root.

    With A = V diag(l) V^T and r = sqrt(l): dL/dA = V ((V^T G V) / (r_i + r_j)) V^T, entries 0 / 0 read as 0.
    """

    @staticmethod
    def forward(cov: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, vectors = torch.linalg.eigh((cov + cov.mT) / 2)
        floor = cov.shape[1] * torch.finfo(cov.dtype).eps * values[:, -1:].clamp(min=0)
        roots = torch.where(values <= floor, 0, values).sqrt()
        return (vectors * roots[:, None, :]) @ vectors.mT, roots, vectors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        _, roots, vectors = output
        ctx.save_for_backward(roots, vectors)
        ctx.mark_non_differentiable(roots, vectors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> Tensor:
        roots, vectors = ctx.saved_tensors
        with no_autocast(grad):
            sums = roots[:, :, None] + roots[:, None, :]
            inner = vectors.mT @ ((grad + grad.mT) * 0.5) @ vectors
            return vectors @ torch.where(sums == 0, 0, inner / sums) @ vectors.mT
