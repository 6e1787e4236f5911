"""Three Newton-Schulz iterations in five products of D x D, and their gradient in eight.

The coupled iteration takes six and ten. It is the polynomial Y_3 = A p_0 p_1 p_2 with M_0 = A, p_i = (3 - M_i) / 2 and
M_(i+1) = M_i p_i^2, in which all factors commute. Multiplied out between the products it reads

    B = A A,   M = M_1 = (9 A - 6 B + A B) / 4
    S = M M,   q = p_1 p_2 = (36 - 39 M + S (27 - 9 M + S)) / 16
    Y_3 = (3 A - B) / 2  q

A has its eigenvalues in [0, 1], and so has M: no term is more than a few times the result, so no digits are lost.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Kept(NamedTuple):
    """What the gradient needs again, (B, D, D) each."""

    b: Tensor
    m: Tensor
    s: Tensor
    q: Tensor


def three_iterations(a: Tensor, kept: Kept) -> Tensor:
    """Y_3 for A = `a`, positive semi-definite with trace 1 (or zero). Fills `kept`."""
    b, m, s, q = kept
    torch.bmm(a, a, out=b)
    torch.baddbmm(b, a, b, beta=-1.5, alpha=0.25, out=m).add_(a, alpha=2.25)
    torch.bmm(m, m, out=s)
    torch.baddbmm(m, s, _w(m, s), beta=-39 / 16, alpha=1 / 16, out=q)
    _add_identity(q, 36 / 16)
    return torch.bmm(_y1(a, b), q)


def three_iterations_backward(a: Tensor, kept: Kept, g: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient with respect to A, whose symmetric part counts, and <g, Y_3>, (B,), for symmetric `g` = dL/dY_3.

    For C = X Y of commuting symmetric matrices, <g, dC> = <g Y, dX> + <X g, dY>; and for a square, dX has gradient
    g X + X g, of which (g + g^T) X has the same symmetric part. Only squares need their gradient made symmetric.
    """
    b, m, s, q = kept
    y1 = _y1(a, b)
    of_y1, of_q = torch.bmm(g, q), torch.bmm(g, y1)
    g_dot_root = torch.linalg.vecdot(of_y1.flatten(1), y1.flatten(1))
    # q = (36 - 39 M + S W) / 16, W = 27 - 9 M + S
    s_of_q = torch.bmm(s, of_q)
    of_s = torch.baddbmm(s_of_q, of_q, _w(m, s))
    of_m = s_of_q.mul_(-9 / 16).add_(of_q, alpha=-39 / 16).baddbmm_(of_s + of_s.mT, m, alpha=1 / 16)
    # M = (9 A - 6 B + A B) / 4, Y_1 = (3 A - B) / 2, B = A A
    of_b = torch.baddbmm(of_m, a, of_m, beta=-1.5, alpha=0.25).add_(of_y1, alpha=-0.5)
    of_a = torch.baddbmm(of_m, of_m, b, beta=2.25, alpha=0.25).add_(of_y1, alpha=1.5).baddbmm_(of_b + of_b.mT, a)
    return of_a, g_dot_root


def _y1(a: Tensor, b: Tensor) -> Tensor:
    return torch.lerp(a, b, -0.5)  # (3 a - b) / 2 in one pass


def _w(m: Tensor, s: Tensor) -> Tensor:
    return _add_identity(torch.sub(s, m, alpha=9), 27)


def _add_identity(a: Tensor, factor: float) -> Tensor:
    a.diagonal(dim1=1, dim2=2).add_(factor)
    return a
