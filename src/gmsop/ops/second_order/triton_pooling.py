"""A Triton program pools one image after the other: covariance, Newton-Schulz square root, upper triangle.

Its matrices lie in a scratch of its own, meant to stay in the GPU's cache: four of N x N forward, eight backward. N is
D rounded up to a power of two, and what D does not fill is zero. Sums and products are formed in registers. So only the
features (once in each direction), the result and the gradient come from memory or go there.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmsop.ops.second_order.triton_iterations import (
    iterations,
    iterations_backward,
    three_iterations,
    three_iterations_backward,
)
from gmsop.ops.triton_matrices import diagonal, dot, inner, multiply, read, save, save_vector


def second_order_forward(x: Tensor, num_iters: int, precision: str) -> Tensor:
    """Return (B, V), float32, of features (B, D, M) with any strides. `precision`: "tf32x3", "tf32" or "bf16"."""
    batch, dim, positions = x.shape
    out = x.new_empty(batch, dim * (dim + 1) // 2, dtype=torch.float32)
    if batch:
        programs, config = _config(x, num_iters, precision)
        scratch = out.new_empty(programs, 4, config["N"], config["N"])
        _forward_kernel[(programs,)](x, out, scratch, batch, positions, *x.stride(), **config)
    return out


def second_order_backward(x: Tensor, grad: Tensor, num_iters: int, precision: str) -> Tensor:
    """Return the gradient with respect to `x`, contiguous and in its dtype, from that of the result, `grad`, (B, V)."""
    batch, _, positions = x.shape
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if batch:
        programs, config = _config(x, num_iters, precision)
        scratch = x.new_empty(programs, 8, config["N"], config["N"], dtype=torch.float32)
        strides = (*x.stride(), *out.stride(), *grad.stride())
        _backward_kernel[(programs,)](x, grad, out, scratch, batch, positions, *strides, **config)
    return out


def _config(x: Tensor, num_iters: int, precision: str) -> tuple[int, dict[str, Any]]:
    """Return the number of programs, and the values that the kernels are compiled for."""
    size = max(16, triton.next_power_of_2(x.shape[1]))
    warps = {16: 1, 32: 2, 64: 4, 128: 8}[size]
    # Without CUDA it is Triton's interpreter that runs the kernels.
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1
    return min(x.shape[0], processors * 8 // warps), {
        "D": x.shape[1], "N": size, "BK": min(32, size), "ITERS": num_iters, "PRECISION": precision, "num_warps": warps,
        "num_stages": 2,
    }  # fmt: skip


@triton.jit
def _forward_kernel(
    x, out, scratch, batch, positions, sb, sd, sm, D: tl.constexpr, N: tl.constexpr, BK: tl.constexpr,
    ITERS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    a = scratch + program * 4 * N * N
    y = a + N * N
    z = y + N * N
    t = z + N * N
    row = tl.arange(0, N)[:, None]
    column = tl.arange(0, N)[None, :]
    lower = row * (row + 1) // 2 + column  # by symmetry the upper triangle by columns is the lower one by rows
    for image in range(program, batch, tl.num_programs(0)):
        mean, rest = _mean(x + image * sb, positions, sd, sm, D, N, BK)
        cov = _covariance(x + image * sb, mean, rest, positions, sd, sm, D, N, BK, PRECISION)
        normalised, root, _ = _normalise(cov, N)
        save(a, normalised, N)
        if ITERS == 3:
            three_iterations(a, y, z, a, t, N, BK, PRECISION)
            result = multiply(y, t, N, BK, PRECISION)
        else:
            result = iterations(a, z, t, ITERS, N, BK, PRECISION)
        tl.store(out + image * (D * (D + 1) // 2) + lower, root * result, (column <= row) & (row < D))


@triton.jit
def _backward_kernel(
    x, grad, out, scratch, batch, positions, sb, sd, sm, ob, od, om, gb, gv, D: tl.constexpr, N: tl.constexpr,
    BK: tl.constexpr, ITERS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    a = scratch + program * 8 * N * N
    g = a + N * N
    m1 = g + N * N
    m2 = m1 + N * N
    m3 = m2 + N * N
    m4 = m3 + N * N
    m5 = m4 + N * N
    m6 = m5 + N * N
    row = tl.arange(0, N)[:, None]
    column = tl.arange(0, N)[None, :]
    high, low = tl.maximum(row, column), tl.minimum(row, column)
    for image in range(program, batch, tl.num_programs(0)):
        features = x + image * sb
        mean, rest = _mean(features, positions, sd, sm, D, N, BK)
        cov = _covariance(features, mean, rest, positions, sd, sm, D, N, BK, PRECISION)
        normalised, _, inverse_root = _normalise(cov, N)
        save(a, normalised, N)
        # G is the symmetric matrix with <G, Y> = <grad, triangle of Y> for every symmetric Y.
        triangle = tl.load(grad + image * gb + (high * (high + 1) // 2 + low) * gv, high < D, 0.0).to(tl.float32)
        save(g, tl.where(row == column, 1.0, 0.5) * triangle, N)
        if ITERS == 3:
            d, g_dot_root = three_iterations_backward(a, g, m1, m2, m3, m4, m5, m6, N, BK, PRECISION)
        else:
            d, g_dot_root = iterations_backward(a, g, m1, m2, m3, m4, m5, ITERS, N, BK, PRECISION)
        d += diagonal(0.5 * g_dot_root - inner(d, read(a, N)), N)
        save(g, d * (2.0 * inverse_root / positions), N)  # dL/dx = (D + D') (x - mean) / M
        save_vector(m1, mean, N)
        save_vector(m2, rest, N)
        for start in range(0, positions, N):
            place = start + column
            product = tl.zeros((N, N), tl.float32)
            for k in range(0, N, BK):
                channel = k + tl.arange(0, BK)
                left = tl.load(g + row * N + channel[None, :])
                inside = (channel[:, None] < D) & (place < positions)
                right = tl.load(features + channel[:, None] * sd + place * sm, inside, 0.0).to(tl.float32)
                right -= tl.load(m1 + channel)[:, None]
                centred = tl.where(inside, right - tl.load(m2 + channel)[:, None], 0.0)
                product = dot(left, centred, product, PRECISION)
            target = out + image * ob + row * od + place * om
            tl.store(target, product.to(out.dtype.element_ty), (row < D) & (place < positions))
        tl.debug_barrier()  # before the next image overwrites the scratch


# --- features and covariance ----------------------------------------------------------------------------------------


@triton.jit
def _centred(x, mean, rest, start, positions, sd, sm, D: tl.constexpr, N: tl.constexpr, BK: tl.constexpr):
    """Load positions start to start + BK of all channels, minus their mean, in float32; zero where there are none."""
    row = tl.arange(0, N)[:, None]
    column = start + tl.arange(0, BK)[None, :]
    inside = (row < D) & (column < positions)
    features = tl.load(x + row * sd + column * sm, inside, 0.0).to(tl.float32)
    return tl.where(inside, features - mean[:, None] - rest[:, None], 0.0)


@triton.jit
def _mean(x, positions, sd, sm, D: tl.constexpr, N: tl.constexpr, BK: tl.constexpr):
    """Return the channels' means, and the means of what is left after subtracting them: where a mean is far larger than
    the spread, its rounding error would add up over the positions."""
    zero = tl.zeros((N,), tl.float32)
    mean = _sum(x, zero, zero, positions, sd, sm, D, N, BK) / positions
    return mean, _sum(x, mean, zero, positions, sd, sm, D, N, BK) / positions


@triton.jit
def _sum(x, mean, rest, positions, sd, sm, D: tl.constexpr, N: tl.constexpr, BK: tl.constexpr):
    total = tl.zeros((N,), tl.float32)
    for start in range(0, positions, BK):
        total += tl.sum(_centred(x, mean, rest, start, positions, sd, sm, D, N, BK), 1)
    return total


@triton.jit
def _covariance(
    x, mean, rest, positions, sd, sm, D: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr
):
    cov = tl.zeros((N, N), tl.float32)
    for start in range(0, positions, BK):
        centred = _centred(x, mean, rest, start, positions, sd, sm, D, N, BK)
        cov = dot(centred, tl.trans(centred), cov, PRECISION)
    return cov / positions


@triton.jit
def _normalise(cov, N: tl.constexpr):
    """Return cov / trace, sqrt(trace) and 1 / sqrt(trace). A zero trace gives zeros; NaN stays NaN."""
    trace = tl.sum(tl.sum(diagonal(cov, N), 1), 0)
    flat = trace < 1.1754943508222875e-38  # the smallest normal float32
    inverse = tl.where(flat, 0.0, 1.0 / trace)
    return cov * inverse, tl.where(flat, 0.0, tl.sqrt(trace)), tl.sqrt(inverse)
