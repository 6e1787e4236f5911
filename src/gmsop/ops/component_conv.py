"""A 1x1 convolution and ReLU for all (image, chosen component) pairs, each with the weight of its component.

B images, N components, K chosen per image, P = B * K pairs; pair b * K + k is image b with its k-th component.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from gmsop import kernels
from gmsop.errors import ConfigError
from gmsop.ops.exporting import is_exporting
from gmsop.ops.precision import no_autocast, product_precision


def component_conv(x: Tensor, weights: Sequence[Tensor], chosen: Tensor) -> Tensor:
    """`relu(weights[chosen[b, k]] @ x[b])` for every pair (b, k).

    The cost follows the pairs, not the components, and nothing waits for the host: on a GPU who chose what is only
    read there. Neither features nor weights are copied once per pair. A component that nobody chose gets a zero
    gradient. Under autocast the products are computed in its dtype.

    Args:
        x: features, (B, C, M), any strides.
        weights: N of them, (O, C).
        chosen: components of each image, (B, K), int64, 0 to N - 1, which is not checked.

    Returns:
        (B * K, O, M). To go on with a second convolution of the same components, give it `chosen.flatten()[:, None]`.

    Raises:
        ConfigError: shapes that do not fit together.

    Source: GM-SOP (NeurIPS 2018), section 3.2, the layers of a parametric component.
    """
    fits = x.dim() == 3 and chosen.dim() == 2 and chosen.shape[0] == x.shape[0] and len(weights) > 0
    if not fits or any(w.shape != (weights[0].shape[0], x.shape[1]) for w in weights):
        shapes = sorted({tuple(w.shape) for w in weights})
        raise ConfigError(
            f"component_conv: features {tuple(x.shape)}, weights {shapes} and choices {tuple(chosen.shape)} "
            f"do not fit together: expected (B, C, M), N times (O, C), and (B, K)"
        )
    if not x.is_meta and torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    if is_exporting():
        return _picked(x, torch.stack(list(weights)).to(x.dtype), chosen).relu()
    return _component_conv(x, list(weights), chosen.flatten())


def _picked(x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    """The obvious way, with a copy of the weight for every pair: where there is no faster one."""
    return torch.bmm(weight.index_select(0, chosen.flatten()), x.repeat_interleave(chosen.shape[1], 0))


@torch.library.custom_op("gmsop::component_conv", mutates_args=())
def _component_conv(x: Tensor, weights: Sequence[Tensor], chosen: Tensor) -> Tensor:
    with no_autocast(x):
        if kernels.usable(x.device) and x.dtype != torch.float64:
            from gmsop.kernels.component_conv import component_conv_forward

            weight = torch.stack(list(weights)).to(x.dtype)
            run = partial(component_conv_forward, x, weight, chosen, product_precision())
            if (found := kernels.attempt("component_conv_forward", run)) is not None:
                return found
        pairs = chosen.reshape(len(x), -1) if len(x) else chosen[:, None]
        return _picked(x, torch.stack(list(weights)).to(x.dtype), pairs).relu_()


@_component_conv.register_kernel("cpu")
def _(x: Tensor, weights: Sequence[Tensor], chosen: Tensor) -> Tensor:
    # One product per pair, straight into its place: copies would cost more than what larger products save.
    out = x.new_empty(len(chosen), weights[0].shape[0], x.shape[2])
    with no_autocast(x):
        used = {n: weights[n].to(x.dtype) for n in chosen.unique().tolist()}
        top_k = len(chosen) // max(len(x), 1)
        for pair, n in enumerate(chosen.tolist()):
            torch.mm(used[n], x[pair // top_k], out=out[pair]).relu_()
    return out


@_component_conv.register_fake
def _(x: Tensor, weights: Sequence[Tensor], chosen: Tensor) -> Tensor:
    return x.new_empty(chosen.shape[0], weights[0].shape[0], x.shape[2])


@torch.library.custom_op("gmsop::component_conv_backward", mutates_args=())
def _backward(
    grad: Tensor, out: Tensor, x: Tensor, weights: Sequence[Tensor], chosen: Tensor, need_x: bool, need_weights: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of `x` and of the stacked weights, (N, O, C); empty where not needed."""
    grad_x, grad_weight = x.new_empty(0), weights[0].new_empty(0)
    with no_autocast(x):
        if kernels.usable(x.device) and x.dtype != torch.float64:
            run = partial(_by_kernel, grad, out, x, weights, chosen, need_x, need_weights)
            if (found := kernels.attempt("component_conv_backward", run)) is not None:
                return found
        grad = torch.ops.aten.threshold_backward(grad, out, 0)
        top_k = len(chosen) // max(len(x), 1)
        if need_x:
            weight = torch.stack(list(weights)).to(x.dtype)
            pairs = torch.bmm(weight.index_select(0, chosen).mT, grad)
            grad_x = pairs.unflatten(0, (len(x), top_k)).sum(1)
        if need_weights:
            products = torch.bmm(grad, x.repeat_interleave(top_k, 0).mT).to(weights[0].dtype)
            grad_weight = products.new_zeros(len(weights), *products.shape[1:]).index_add_(0, chosen, products)
    return grad_x, grad_weight


def _by_kernel(
    grad: Tensor, out: Tensor, x: Tensor, weights: Sequence[Tensor], chosen: Tensor, need_x: bool, need_weights: bool
) -> tuple[Tensor, Tensor]:
    from gmsop.kernels import component_conv as kernel

    grad_x, grad_weight, how = x.new_empty(0), weights[0].new_empty(0), product_precision()
    if need_x:
        weight = torch.stack(list(weights)).to(x.dtype)
        grad_x = kernel.component_conv_backward_input(grad, out, weight, chosen, len(x), how)
    if need_weights:
        grad_weight = kernel.component_conv_backward_weight(grad, out, x, chosen, len(weights), how)
    return grad_x, grad_weight.to(weights[0].dtype)


@_backward.register_kernel("cpu")
def _(
    grad: Tensor, out: Tensor, x: Tensor, weights: Sequence[Tensor], chosen: Tensor, need_x: bool, need_weights: bool
) -> tuple[Tensor, Tensor]:
    grad_x = x.new_empty(x.shape if need_x else 0)
    # Half precision would lose the sum over many pairs.
    wide = torch.promote_types(weights[0].dtype, torch.float32)
    grad_weight = x.new_zeros(len(weights) if need_weights else 0, *weights[0].shape, dtype=wide)
    with no_autocast(x):
        used = {n: weights[n].to(x.dtype) for n in chosen.unique().tolist()}
        top_k = len(chosen) // max(len(x), 1)
        for pair, n in enumerate(chosen.tolist()):
            image = pair // top_k
            g = torch.ops.aten.threshold_backward(grad[pair], out[pair], 0)
            if need_x and pair % top_k == 0:
                torch.mm(used[n].mT, g, out=grad_x[image])
            elif need_x:
                grad_x[image].addmm_(used[n].mT, g)
            if need_weights and x.dtype == wide:
                grad_weight[n].addmm_(g, x[image].mT)
            elif need_weights:
                grad_weight[n] += torch.mm(g, x[image].mT)
    return grad_x, grad_weight.to(weights[0].dtype)


@_backward.register_fake
def _(
    grad: Tensor, out: Tensor, x: Tensor, weights: Sequence[Tensor], chosen: Tensor, need_x: bool, need_weights: bool
) -> tuple[Tensor, Tensor]:
    stacked = (len(weights), *weights[0].shape)
    return x.new_empty(x.shape if need_x else 0), weights[0].new_empty(stacked if need_weights else 0)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Sequence[Tensor], Tensor], output: Tensor) -> None:
    x, weights, chosen = inputs
    ctx.save_for_backward(x, chosen, output, *weights)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, list[Tensor | None], None]:
    x, chosen, out, *weights = ctx.saved_tensors
    need_x, need_weights, _ = ctx.needs_input_grad
    grad_x, grad_weight = _backward(grad, out, x, weights, chosen, need_x, any(need_weights))
    of_weights = grad_weight.unbind() if any(need_weights) else [None] * len(weights)
    return grad_x if need_x else None, list(of_weights), None


_component_conv.register_autograd(_gradients, setup_context=_setup_context)


@register_flop_formula(torch.ops.gmsop.component_conv)
def _flops(x: Sequence[int], weights: Sequence[Sequence[int]], chosen: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * chosen[0] * weights[0][0] * weights[0][1] * x[2]
