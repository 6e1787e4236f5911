"""These functions compute one layer of `component_conv` for all pairs at once: by a Triton kernel, else with copies."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from gmsop.ops import kernels
from gmsop.ops.precision import product_precision


def layer_forward(x: Tensor, weights: Sequence[Tensor], chosen: Tensor) -> Tensor:
    """Return the layer's result, (P, O, M). `x` is (B, C, M), each row shared by K pairs, or (P, C, M)."""
    weight = stacked(weights, x.dtype)
    if kernels.usable(x.device) and x.dtype != torch.float64:
        from gmsop.ops.mixture.triton_component_conv import component_conv_forward

        how = product_precision()
        run = partial(component_conv_forward, x, weight, chosen, how)
        if (found := kernels.attempt("component_conv_forward", how, run, x)) is not None:
            return found
    # Where there is no kernel, every pair gets a copy of its weight.
    return torch.bmm(weight.index_select(0, chosen), x.repeat_interleave(_per_row(chosen, x), 0)).relu_()


def layer_backward(
    grad: Tensor, out: Tensor, x: Tensor, weights: Sequence[Tensor], chosen: Tensor, need_x: bool, need_weights: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `x` and of the stacked weights, (N, O, C); each is empty if not needed."""
    grad_x, grad_weight = x.new_empty(0), weights[0].new_empty(0)
    if kernels.usable(x.device) and x.dtype != torch.float64:
        how = product_precision()
        run = partial(_by_kernel, grad, out, x, weights, chosen, need_x, need_weights, how)
        if (found := kernels.attempt("component_conv_backward", how, run, x)) is not None:
            return found
    grad, shared_by = torch.ops.aten.threshold_backward(grad, out, 0), _per_row(chosen, x)
    if need_x:
        weight = stacked(weights, x.dtype)
        grad_x = torch.bmm(weight.index_select(0, chosen).mT, grad).unflatten(0, (len(x), shared_by)).sum(1)
    if need_weights:
        products = torch.bmm(grad, x.repeat_interleave(shared_by, 0).mT).to(weights[0].dtype)
        grad_weight = products.new_zeros(len(weights), *products.shape[1:]).index_add_(0, chosen, products)
    return grad_x, grad_weight


def _by_kernel(
    grad: Tensor,
    out: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    chosen: Tensor,
    need_x: bool,
    need_weights: bool,
    how: str,
) -> tuple[Tensor, Tensor]:
    from gmsop.ops.mixture import triton_component_conv as kernel

    grad_x, grad_weight = x.new_empty(0), weights[0].new_empty(0)
    if need_x:
        grad_x = kernel.component_conv_backward_input(grad, out, stacked(weights, x.dtype), chosen, len(x), how)
    if need_weights:
        grad_weight = kernel.component_conv_backward_weight(grad, out, x, chosen, len(weights), how)
    return grad_x, grad_weight.to(weights[0].dtype)


def stacked(weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Return the components' weights as one tensor, (N, O, C)."""
    return torch.stack(list(weights)).flatten(2).to(dtype)


def _per_row(chosen: Tensor, x: Tensor) -> int:
    """Return how many pairs share a row of `x`: K if it is an image's, 1 if it is another layer's result."""
    return len(chosen) // max(len(x), 1)
