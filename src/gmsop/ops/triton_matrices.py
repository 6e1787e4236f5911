"""Matrices of N x N that a program keeps in a scratch of its own, row by row, and its products of them."""

import triton
import triton.language as tl


@triton.jit
def read(a, N: tl.constexpr):
    return tl.load(a + tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :])


@triton.jit
def save(a, value, N: tl.constexpr):
    """Overwrite a matrix that the program may still be reading."""
    tl.debug_barrier()
    tl.store(a + tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :], value)
    tl.debug_barrier()


@triton.jit
def save_vector(a, value, N: tl.constexpr):
    tl.debug_barrier()
    tl.store(a + tl.arange(0, N), value)
    tl.debug_barrier()


@triton.jit
def dot(a, b, total, PRECISION: tl.constexpr):
    # One chain of branches: after an `if` that returns, Triton would compile the rest all the same.
    if a.dtype != tl.float32:
        return tl.dot(a, b, total)
    elif PRECISION == "bf16":  # noqa: RET505
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), total)
    else:
        return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def inner(a, b):
    return tl.sum(tl.sum(a * b, 1), 0)


@triton.jit
def diagonal(value, N: tl.constexpr):
    return tl.where(tl.arange(0, N)[:, None] == tl.arange(0, N)[None, :], value, 0.0)


@triton.jit
def multiply(a, b, N: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr, TRANSPOSED: tl.constexpr = False):
    """A B, or A' B, for symmetric B."""
    return add_product(tl.zeros((N, N), tl.float32), a, b, N, BK, PRECISION, TRANSPOSED)


@triton.jit
def add_product(
    total, a, b, N: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr, TRANSPOSED: tl.constexpr = False
):
    """`total` + A B, or A' B, for symmetric B: read by rows, which is as its columns."""
    row = tl.arange(0, N)[:, None]
    for start in range(0, N, BK):
        k = start + tl.arange(0, BK)[None, :]
        left = tl.load(a + k * N + row) if TRANSPOSED else tl.load(a + row * N + k)
        right = tl.load(b + row * N + k)
        total = dot(left, tl.trans(right), total, PRECISION)
    return total
