"""Here three Newton-Schulz iterations take five products of D x D, and their gradient eight.

The coupled iteration takes six and ten. What it computes is the polynomial Y_3 = A p_0 p_1 p_2 with M_0 = A,
p_i = (3 - M_i) / 2 and M_(i+1) = M_i p_i^2, in which all factors commute. Written with five products it reads

    Y_1 = A p_0 = (3 A - A A) / 2
    M = M_1 = Y_1 p_0 = (3 Y_1 - Y_1 A) / 2
    S = M M
    Q = p_1 p_2 = (36 - 39 M + S W) / 16,   W = 27 - 9 M + S
    Y_3 = Y_1 Q

A has its eigenvalues in [0, 1], and so has M: no term is more than a few times the result, so no digits are lost.
"""

import torch
from torch import Tensor


def three_iterations(a: Tensor, m_and_q: Tensor, spare: Tensor) -> Tensor:
    """Return Y_3 for A = `a`, (B, D, D), which is positive semi-definite with trace 1 (or zero).

    Writes M and Q to `m_and_q`, (2, B, D, D). Overwrites `spare`, (3, B, D, D), in which the result lies, too.
    """
    (m, q), (y1, s, w) = m_and_q, spare
    _step(a, a, y1)
    _step(y1, a, m)
    torch.bmm(m, m, out=s)
    torch.baddbmm(m, s, _w(m, s, w), beta=-39 / 16, alpha=1 / 16, out=q)
    _add_identity(q, 36 / 16)
    return torch.bmm(y1, q, out=w)


def three_iterations_backward(a: Tensor, m_and_q: Tensor, g: Tensor, spare: Tensor) -> Tensor:
    """Return the gradient with respect to A for symmetric `g` = dL/dY_3.

    Overwrites `g`, and `spare`, (5, B, D, D), in which the result lies, too.

    Y_3 is a polynomial of A. If A changes by E, A^n changes by the sum of all A^i E A^j with i + j = n - 1, and
    <G, A^i E A^j> = <A^i G A^j, E>: so the gradient is the change of Y_3 if A changes by G. It is found by
    differentiating each line above forward. What is symmetric stays symmetric, and the change of a square is X + X^T
    with one product X. Y_1 and S are computed again: two more products take no longer than fetching them from memory.
    """
    (m, q), (y1, s, spare_1, spare_2, spare_3) = m_and_q, spare
    _step(a, a, y1)
    torch.bmm(m, m, out=s)
    half = torch.baddbmm(g, a, g, beta=0.75, alpha=-0.5, out=spare_1)
    of_y1 = torch.add(half, half.mT, out=spare_2)
    of_m = _step(of_y1, a, spare_3).baddbmm_(y1, g, alpha=-0.5)
    half = torch.bmm(m, of_m, out=spare_1)
    of_s = torch.add(half, half.mT, out=g)
    of_w = torch.sub(of_s, of_m, alpha=9, out=spare_1)
    of_q = of_m.baddbmm_(s, of_w, beta=-39 / 16, alpha=1 / 16)
    of_q.baddbmm_(of_s, _w(m, s, spare_1), alpha=1 / 16)
    return torch.bmm(of_y1, q, out=spare_1).baddbmm_(y1, of_q)


def _step(y: Tensor, a: Tensor, out: Tensor) -> Tensor:
    """Return (3 Y - Y A) / 2."""
    return torch.baddbmm(y, y, a, beta=1.5, alpha=-0.5, out=out)


def _w(m: Tensor, s: Tensor, out: Tensor) -> Tensor:
    return _add_identity(torch.sub(s, m, alpha=9, out=out), 27)


def _add_identity(a: Tensor, factor: float) -> Tensor:
    a.diagonal(dim1=1, dim2=2).add_(factor)
    return a
