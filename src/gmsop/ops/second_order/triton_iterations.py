"""These functions run Newton-Schulz iterations, and their gradient, on matrices in a program's scratch.

Every matrix is symmetric unless a docstring says otherwise. The formulas and their derivation are in `three_iterations`
beside this file, and for other numbers of iterations in `matrix_sqrt`.
"""

import triton
import triton.language as tl

from gmsop.ops.triton_matrices import add_product, diagonal, inner, multiply, read, save


@triton.jit
def three_iterations(a, y1, m, s, q, N: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):
    """Y_1, M, S = M M and Q of A, so that Y_3 = Y_1 Q. `s` may be `a`."""
    save(y1, _step(a, a, N, BK, PRECISION), N)
    save(m, _step(y1, a, N, BK, PRECISION), N)
    save(s, multiply(m, m, N, BK, PRECISION), N)
    save(q, _w(m, s, N), N)
    product = multiply(s, q, N, BK, PRECISION)
    save(q, diagonal(36 / 16, N) - (39 / 16) * read(m, N) + product / 16, N)


@triton.jit
def three_iterations_backward(a, g, y1, m, s, q, u, v, N: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):
    """Return dL/dA and <G, Y_3> for G = dL/dY_3. Overwrites all but A."""
    three_iterations(a, y1, m, s, q, N, BK, PRECISION)
    half = 0.75 * read(g, N) - 0.5 * multiply(g, a, N, BK, PRECISION)
    save(u, half + tl.trans(half), N)  # change of Y_1
    product = multiply(y1, g, N, BK, PRECISION)
    g_dot_root = inner(product, read(q, N))
    product = add_product(product, u, a, N, BK, PRECISION)
    save(g, 1.5 * read(u, N) - 0.5 * product, N)  # change of M
    half = multiply(m, g, N, BK, PRECISION)
    save(v, half + tl.trans(half), N)  # change of S
    save(m, _w(m, s, N), N)
    save(g, read(v, N) - 9.0 * read(g, N), N)  # change of W
    product = multiply(s, g, N, BK, PRECISION)
    product = add_product(product, v, m, N, BK, PRECISION)
    # Change of Q. That of M was overwritten; it is (v - g) / 9.
    save(g, product / 16 + (39 / 144) * (read(g, N) - read(v, N)), N)
    d = multiply(u, q, N, BK, PRECISION)
    return add_product(d, y1, g, N, BK, PRECISION), g_dot_root


@triton.jit
def _step(y, a, N: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):
    """(3 Y - Y A) / 2."""
    return 1.5 * read(y, N) - 0.5 * multiply(y, a, N, BK, PRECISION)


@triton.jit
def _w(m, s, N: tl.constexpr):
    return diagonal(27.0, N) - 9.0 * read(m, N) + read(s, N)


@triton.jit
def _iterate(y, z, t, a, count, N: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):
    """Compute Y and Z after `count` >= 1 steps from Y = A, Z = I. Overwrites `t`. `y` may be `a`."""
    product = multiply(a, a, N, BK, PRECISION)
    start = read(a, N)
    save(y, 1.5 * start - 0.5 * product, N)
    save(z, diagonal(1.5, N) - 0.5 * start, N)
    for _ in range(count - 1):
        save(t, multiply(z, y, N, BK, PRECISION), N)
        new_y = 1.5 * read(y, N) - 0.5 * multiply(y, t, N, BK, PRECISION)
        save(y, new_y, N)
        new_z = 1.5 * read(z, N) - 0.5 * multiply(t, z, N, BK, PRECISION)
        save(z, new_z, N)


@triton.jit
def iterations(y, z, t, ITERS: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):
    """Return Y after ITERS steps from `y` = A; the last step leaves Z out."""
    m = y
    if ITERS > 1:
        _iterate(y, z, t, y, ITERS - 1, N, BK, PRECISION)
        save(t, multiply(z, y, N, BK, PRECISION), N)
        m = t
    return _step(y, m, N, BK, PRECISION)


@triton.jit
def iterations_backward(
    a, g, y, z, h, u, v, ITERS: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr
):
    """Return dL/dA and <G, Y_T> for G = dL/dY_T. Overwrites all but A; U and V are not symmetric."""
    if ITERS == 1:
        product = multiply(g, a, N, BK, PRECISION)
        g_dot_root = 1.5 * inner(read(g, N), read(a, N)) - 0.5 * inner(product, read(a, N))
        d = _symmetric_step(g, g, a, N, BK, PRECISION)
    else:
        _iterate(y, z, u, a, ITERS - 1, N, BK, PRECISION)
        save(u, multiply(g, y, N, BK, PRECISION), N)  # U' = G Y
        ygy = multiply(u, y, N, BK, PRECISION, TRANSPOSED=True)
        g_dot_root = 1.5 * inner(read(g, N), read(y, N)) - 0.5 * inner(ygy, read(z, N))
        save(h, -0.5 * ygy, N)
        save(g, _symmetric_step(g, u, z, N, BK, PRECISION), N)
        for done in range(1, ITERS - 1):
            # Each step's iterates are computed again: if kept, they would crowd the cache.
            _iterate(y, z, u, a, ITERS - 1 - done, N, BK, PRECISION)
            save(u, multiply(g, y, N, BK, PRECISION), N)
            save(v, multiply(h, z, N, BK, PRECISION), N)  # V' = H Z
            new_g = _symmetric_step(g, u, z, N, BK, PRECISION)
            save(g, new_g - 0.5 * multiply(v, z, N, BK, PRECISION, TRANSPOSED=True), N)
            new_h = _symmetric_step(h, v, y, N, BK, PRECISION)
            save(h, new_h - 0.5 * multiply(u, y, N, BK, PRECISION, TRANSPOSED=True), N)
        d = _symmetric_step(g, g, a, N, BK, PRECISION) - 0.5 * read(h, N)
    return d, g_dot_root


@triton.jit
def _symmetric_step(g, a, b, N: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):
    """(3 G - (A B + (A B)')) / 2 for any A."""
    product = multiply(a, b, N, BK, PRECISION)
    return 1.5 * read(g, N) - 0.5 * (product + tl.trans(product))
