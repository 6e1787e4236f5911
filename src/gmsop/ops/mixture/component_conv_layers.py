"""These functions compute one layer of `component_conv` for all pairs at once: by a Triton kernel, or with copies."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from gmsop.ops import kernels
from gmsop.ops.precision import product_precision


def layer_forward(x: Tensor, weights: Sequence[Tensor], chosen: Tensor) -> Tensor:
    """Return the layer's result, (P, O, M). `x` is (B, C, M), each row shared by K pairs, or (P, C, M)."""
    weight = stacked(weights, x.dtype)

    def results(by_kernel: bool) -> list[Tensor]:
        return [(_forward_by_kernel if by_kernel else _forward)(x, weight, chosen)]

    if x.device.type in kernels.DEVICE_TYPES and kernels.choose(_call("forward", x, weights, chosen), x, results):
        run = partial(_forward_by_kernel, x, weight, chosen)
        if (found := kernels.attempt("component_conv_forward", product_precision(), run, x)) is not None:
            return found
    return _forward(x, weight, chosen)


def layer_backward(
    grad: Tensor, out: Tensor, x: Tensor, weights: Sequence[Tensor], chosen: Tensor, need_x: bool, need_weights: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `x` and of the stacked weights, (N, O, C); each is empty if not needed."""

    def both(by_kernel: bool) -> tuple[Tensor, Tensor]:
        run = _backward_by_kernel if by_kernel else _backward
        return run(grad, out, x, weights, chosen, need_x, need_weights)

    def results(by_kernel: bool) -> list[Tensor]:
        return [t for t, needed in zip(both(by_kernel), (need_x, need_weights), strict=True) if needed]

    which = " and ".join(name for name, needed in (("features", need_x), ("weights", need_weights)) if needed)
    call = _call(f"backward to {which or 'nothing'}", x, weights, chosen)
    if x.device.type in kernels.DEVICE_TYPES and kernels.choose(call, x, results):
        run = partial(both, True)
        if (found := kernels.attempt("component_conv_backward", product_precision(), run, x)) is not None:
            return found
    return both(False)


def _call(direction: str, x: Tensor, weights: Sequence[Tensor], chosen: Tensor) -> kernels.Call:
    features, channels = weights[0].shape[:2]
    sizes = {
        "pairs": kernels.roughly(len(chosen)),
        "pairs per row": _per_row(chosen, x),
        "components": len(weights),
        "channels": channels,
        "features": features,
        "positions": kernels.roughly(x.shape[2]),
    }
    return kernels.Call(f"component_conv {direction}", sizes, x.dtype, product_precision())


def _forward(x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    """Give every pair a copy of its weight."""
    return torch.bmm(weight.index_select(0, chosen), x.repeat_interleave(_per_row(chosen, x), 0)).relu_()


def _forward_by_kernel(x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    from gmsop.ops.mixture.triton_component_conv import component_conv_forward

    return component_conv_forward(x, weight, chosen, product_precision())


def _backward(
    grad: Tensor, out: Tensor, x: Tensor, weights: Sequence[Tensor], chosen: Tensor, need_x: bool, need_weights: bool
) -> tuple[Tensor, Tensor]:
    grad_x, grad_weight = x.new_empty(0), weights[0].new_empty(0)
    grad, shared_by = torch.ops.aten.threshold_backward(grad, out, 0), _per_row(chosen, x)
    if need_x:
        weight = stacked(weights, x.dtype)
        grad_x = torch.bmm(weight.index_select(0, chosen).mT, grad).unflatten(0, (len(x), shared_by)).sum(1)
    if need_weights:
        products = torch.bmm(grad, x.repeat_interleave(shared_by, 0).mT).to(weights[0].dtype)
        grad_weight = products.new_zeros(len(weights), *products.shape[1:]).index_add_(0, chosen, products)
    return grad_x, grad_weight


def _backward_by_kernel(
    grad: Tensor, out: Tensor, x: Tensor, weights: Sequence[Tensor], chosen: Tensor, need_x: bool, need_weights: bool
) -> tuple[Tensor, Tensor]:
    from gmsop.ops.mixture import triton_component_conv as kernel

    how = product_precision()
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
