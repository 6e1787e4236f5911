"""These functions read, save and multiply the N x N matrices that a program keeps in its scratch, row by row."""

import triton
import triton.language as tl


@triton.jit
def read(a, N: tl.constexpr):
    """Load a matrix."""
    return tl.load(a + tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :])


@triton.jit
def save(a, value, N: tl.constexpr):
    """Overwrite a matrix that the program may still be reading."""
    tl.debug_barrier()
    tl.store(a + tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :], value)
    tl.debug_barrier()


@triton.jit
def save_vector(a, value, N: tl.constexpr):
    """Overwrite N numbers that the program may still be reading."""
    tl.debug_barrier()
    tl.store(a + tl.arange(0, N), value)
    tl.debug_barrier()


@triton.jit
def dot(a, b, total, PRECISION: tl.constexpr):
    """Return `total` + A B; PRECISION matters for float32 only."""
    # This is one chain of branches, because Triton compiles what follows an `if` that returns all the same.
    if a.dtype != tl.float32:
        return tl.dot(a, b, total)
    elif PRECISION == "bf16":  # noqa: RET505
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), total)
    else:
        return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def inner(a, b):
    """Return <a, b>."""
    return tl.sum(tl.sum(a * b, 1), 0)


@triton.jit
def diagonal(value, N: tl.constexpr):
    """Return `value` on the diagonal and zero elsewhere: a number times I, or a matrix's diagonal."""
    return tl.where(tl.arange(0, N)[:, None] == tl.arange(0, N)[None, :], value, 0.0)


@triton.jit
def multiply(a, b, N: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr, TRANSPOSED: tl.constexpr = False):
    """Return A B, or A' B, for symmetric B."""
    return add_product(tl.zeros((N, N), tl.float32), a, b, N, BK, PRECISION, TRANSPOSED)


@triton.jit
def add_product(
    total, a, b, N: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr, TRANSPOSED: tl.constexpr = False
):
    """Return `total` + A B, or A' B, for symmetric B, whose rows are read in place of its columns."""
    row = tl.arange(0, N)[:, None]
    for start in range(0, N, BK):
        k = start + tl.arange(0, BK)[None, :]
        left = tl.load(a + k * N + row) if TRANSPOSED else tl.load(a + row * N + k)
        right = tl.load(b + row * N + k)
        total = dot(left, tl.trans(right), total, PRECISION)
    return total
