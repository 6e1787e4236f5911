"""Second-order pooling with one program per image: covariance, Newton-Schulz square root and upper triangle.

A program takes one image after the other. Its iterates lie in a scratch of its own, three matrices of N x N forward and
seven backward (N is D rounded up to a power of two, the rest zeros), small enough in all to stay in the GPU's cache;
sums and products are formed in registers. Memory sees the features once in each direction, the result and the gradient.

Every matrix but U and V is symmetric, which lets a product read both its operands row by row. Formulas and their
derivation: `gmsop.ops.matrix_sqrt`.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_DIM = 128


def second_order_forward(x: Tensor, num_iters: int, precision: str) -> Tensor:
    """(B, D, M) with any strides -> (B, V), float32. `precision`: "tf32x3", "tf32" or "bf16"."""
    batch, dim, positions = x.shape
    out = x.new_empty(batch, dim * (dim + 1) // 2, dtype=torch.float32)
    if batch:
        programs, config = _config(x, num_iters, precision)
        scratch = out.new_empty(programs, 3, config["N"], config["N"])
        _forward_kernel[(programs,)](x, out, scratch, batch, positions, *x.stride(), **config)
    return out


def second_order_backward(x: Tensor, grad: Tensor, num_iters: int, precision: str) -> Tensor:
    """Gradient with respect to `x`, in its dtype and contiguous, from `x` and the gradient (B, V) of the result."""
    batch, _, positions = x.shape
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if batch:
        programs, config = _config(x, num_iters, precision)
        scratch = x.new_empty(programs, 7, config["N"], config["N"], dtype=torch.float32)
        strides = (*x.stride(), *out.stride(), *grad.stride())
        _backward_kernel[(programs,)](x, grad, out, scratch, batch, positions, *strides, **config)
    return out


def _config(x: Tensor, num_iters: int, precision: str) -> tuple[int, dict[str, Any]]:
    """Number of programs, and what the kernels are compiled for."""
    size = max(16, triton.next_power_of_2(x.shape[1]))
    warps = {16: 1, 32: 2, 64: 4, 128: 8}[size]
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1  # interpreted
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
    y = scratch + program * 3 * N * N
    z = y + N * N
    t = z + N * N
    row = tl.arange(0, N)[:, None]
    column = tl.arange(0, N)[None, :]
    lower = row * (row + 1) // 2 + column  # by symmetry the upper triangle by columns is the lower one by rows
    for image in range(program, batch, tl.num_programs(0)):
        mean, rest = _mean(x + image * sb, positions, sd, sm, D, N, BK)
        cov = _covariance(x + image * sb, mean, rest, positions, sd, sm, D, N, BK, PRECISION)
        a, root, _ = _normalise(cov, N)
        _save(y, a, N)
        if ITERS > 1:
            _iterate(y, z, t, y, ITERS - 1, N, BK, PRECISION)
            _save(t, _multiply(z, y, N, BK, False, PRECISION), N)
            product = _multiply(y, t, N, BK, False, PRECISION)
        else:
            product = _multiply(y, y, N, BK, False, PRECISION)
        result = root * (1.5 * _read(y, N) - 0.5 * product)
        tl.store(out + image * (D * (D + 1) // 2) + lower, result, (column <= row) & (row < D))


@triton.jit
def _backward_kernel(
    x, grad, out, scratch, batch, positions, sb, sd, sm, ob, od, om, gb, gv, D: tl.constexpr, N: tl.constexpr,
    BK: tl.constexpr, ITERS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    a = scratch + program * 7 * N * N
    y = a + N * N
    z = y + N * N
    g = z + N * N
    h = g + N * N
    u = h + N * N
    v = u + N * N
    row = tl.arange(0, N)[:, None]
    column = tl.arange(0, N)[None, :]
    high, low = tl.maximum(row, column), tl.minimum(row, column)
    for image in range(program, batch, tl.num_programs(0)):
        features = x + image * sb
        mean, rest = _mean(features, positions, sd, sm, D, N, BK)
        cov = _covariance(features, mean, rest, positions, sd, sm, D, N, BK, PRECISION)
        normalised, _, inverse_root = _normalise(cov, N)
        _save(a, normalised, N)
        # The symmetric G with <G, Y> = <grad, triangle of Y> for every symmetric Y.
        triangle = tl.load(grad + image * gb + (high * (high + 1) // 2 + low) * gv, high < D, 0.0).to(tl.float32)
        _save(g, tl.where(row == column, 1.0, 0.5) * triangle, N)
        g_dot_root = 0.0
        for step in tl.static_range(ITERS - 1):
            # The iterates of each step are computed again: kept, they would crowd the cache.
            _iterate(y, z, u, a, ITERS - 1 - step, N, BK, PRECISION)
            _save(u, _multiply(g, y, N, BK, False, PRECISION), N)  # U' = G Y
            if step == 0:
                ygy = _multiply(u, y, N, BK, True, PRECISION)
                g_dot_root = 1.5 * _inner(_read(g, N), _read(y, N)) - 0.5 * _inner(ygy, _read(z, N))
                _save(h, -0.5 * ygy, N)
                _save(g, _symmetric_step(g, u, z, N, BK, PRECISION), N)
            else:
                _save(v, _multiply(h, z, N, BK, False, PRECISION), N)  # V' = H Z
                new_g = _symmetric_step(g, u, z, N, BK, PRECISION)
                _save(g, new_g - 0.5 * _multiply(v, z, N, BK, True, PRECISION), N)
                new_h = _symmetric_step(h, v, y, N, BK, PRECISION)
                _save(h, new_h - 0.5 * _multiply(u, y, N, BK, True, PRECISION), N)
        if ITERS == 1:
            product = _multiply(g, a, N, BK, False, PRECISION)
            g_dot_root = 1.5 * _inner(_read(g, N), normalised) - 0.5 * _inner(product, normalised)
        d = _symmetric_step(g, g, a, N, BK, PRECISION)
        if ITERS > 1:
            d -= 0.5 * _read(h, N)
        d += tl.where(row == column, 0.5 * g_dot_root - _inner(d, _read(a, N)), 0.0)
        _save(g, d * (2.0 * inverse_root / positions), N)  # dL/dx = (D + D') (x - mean) / M
        _save_vector(u, mean, N)
        _save_vector(v, rest, N)
        for start in range(0, positions, N):
            place = start + column
            product = tl.zeros((N, N), tl.float32)
            for k in range(0, N, BK):
                inner = k + tl.arange(0, BK)
                left = tl.load(g + row * N + inner[None, :])
                inside = (inner[:, None] < D) & (place < positions)
                right = tl.load(features + inner[:, None] * sd + place * sm, inside, 0.0).to(tl.float32)
                right -= tl.load(u + inner)[:, None]
                centred = tl.where(inside, right - tl.load(v + inner)[:, None], 0.0)
                product = _dot(left, centred, product, PRECISION)
            target = out + image * ob + row * od + place * om
            tl.store(target, product.to(out.dtype.element_ty), (row < D) & (place < positions))
        tl.debug_barrier()  # before the next image overwrites the scratch


# --- features and covariance ----------------------------------------------------------------------------------------


@triton.jit
def _centred(x, mean, rest, start, positions, sd, sm, D: tl.constexpr, N: tl.constexpr, BK: tl.constexpr):
    """Positions start to start + BK of all channels, less their mean, in float32; zero where there are none."""
    row = tl.arange(0, N)[:, None]
    column = start + tl.arange(0, BK)[None, :]
    inside = (row < D) & (column < positions)
    features = tl.load(x + row * sd + column * sm, inside, 0.0).to(tl.float32)
    return tl.where(inside, features - mean[:, None] - rest[:, None], 0.0)


@triton.jit
def _mean(x, positions, sd, sm, D: tl.constexpr, N: tl.constexpr, BK: tl.constexpr):
    """Means of the channels, and the mean of what is left after subtracting them: where a mean is far larger than the
    spread, its rounding error would add up over the positions."""
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
        cov = _dot(centred, tl.trans(centred), cov, PRECISION)
    return cov / positions


@triton.jit
def _normalise(cov, N: tl.constexpr):
    """The matrix over its trace, sqrt(trace) and its inverse. A zero trace gives zeros; NaN stays NaN."""
    diagonal = tl.arange(0, N)[:, None] == tl.arange(0, N)[None, :]
    trace = tl.sum(tl.sum(tl.where(diagonal, cov, 0.0), 1), 0)
    flat = trace < 1.1754943508222875e-38  # the smallest normal float32
    inverse = tl.where(flat, 0.0, 1.0 / trace)
    return cov * inverse, tl.where(flat, 0.0, tl.sqrt(trace)), tl.sqrt(inverse)


# --- matrices in the scratch ----------------------------------------------------------------------------------------


@triton.jit
def _read(a, N: tl.constexpr):
    return tl.load(a + tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :])


@triton.jit
def _save(a, value, N: tl.constexpr):
    """Overwrite a matrix that the program may still be reading."""
    tl.debug_barrier()
    tl.store(a + tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :], value)
    tl.debug_barrier()


@triton.jit
def _save_vector(a, value, N: tl.constexpr):
    tl.debug_barrier()
    tl.store(a + tl.arange(0, N), value)
    tl.debug_barrier()


@triton.jit
def _dot(a, b, total, PRECISION: tl.constexpr):
    if PRECISION == "bf16":
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), total)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def _inner(a, b):
    return tl.sum(tl.sum(a * b, 1), 0)


@triton.jit
def _multiply(a, b, N: tl.constexpr, BK: tl.constexpr, TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr):
    """A B, or A' B, for symmetric B."""
    row = tl.arange(0, N)[:, None]
    product = tl.zeros((N, N), tl.float32)
    for start in range(0, N, BK):
        k = start + tl.arange(0, BK)[None, :]
        left = tl.load(a + k * N + row) if TRANSPOSED else tl.load(a + row * N + k)
        right = tl.load(b + row * N + k)
        product = _dot(left, tl.trans(right), product, PRECISION)
    return product


@triton.jit
def _symmetric_step(g, a, b, N: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):
    """(3 G - (A B + (A B)')) / 2 for symmetric B."""
    product = _multiply(a, b, N, BK, False, PRECISION)
    return 1.5 * _read(g, N) - 0.5 * (product + tl.trans(product))


@triton.jit
def _iterate(y, z, t, a, COUNT: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):
    """Y and Z after COUNT >= 1 steps from Y = A, Z = I; `t` holds what is between. `y` may be `a`."""
    product = _multiply(a, a, N, BK, False, PRECISION)
    start = _read(a, N)
    identity = (tl.arange(0, N)[:, None] == tl.arange(0, N)[None, :]).to(tl.float32)
    _save(y, 1.5 * start - 0.5 * product, N)
    _save(z, 1.5 * identity - 0.5 * start, N)
    for _ in range(COUNT - 1):
        _save(t, _multiply(z, y, N, BK, False, PRECISION), N)
        new_y = 1.5 * _read(y, N) - 0.5 * _multiply(y, t, N, BK, False, PRECISION)
        _save(y, new_y, N)
        new_z = 1.5 * _read(z, N) - 0.5 * _multiply(t, z, N, BK, False, PRECISION)
        _save(z, new_z, N)
