"""`component_conv` computes 1x1 convolutions with ReLU for all pairs, each with the weights of its component.

B images, N components, K chosen per image, P = B * K pairs; pair b * K + k is image b with its k-th component.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from gmsop.errors import ConfigError
from gmsop.ops.mixture.component_conv_cpu import backward_on_cpu, forward_on_cpu
from gmsop.ops.mixture.component_conv_layers import layer_backward, layer_forward, stacked
from gmsop.ops.observers import is_decomposed, is_exporting, is_plain_inference, is_tracing
from gmsop.ops.precision import no_autocast


def component_conv(x: Tensor, layers: Sequence[Sequence[Tensor]], chosen: Tensor) -> Tensor:
    """Return what each pair's component makes of its image: 1x1 convolutions with ReLU, one per layer.

    For pair (b, k) a layer computes `relu(weights[chosen[b, k]] @ h)`; h is `x[b]` in the first layer, and what the
    layer before computed in the others. The cost follows the number of pairs, not of components. On a GPU only the GPU
    reads the choices, so the host does not wait. On a CPU and by the Triton kernels, neither features nor weights are
    copied once per pair. A component that no image chose gets a zero gradient. Under autocast the products are computed
    in its dtype, except those of float64 features.

    Args:
        x: features, (B, C, M), any strides.
        layers: for each layer the weights of the N components, (O, C) or, as a convolution has them, (O, C, 1, 1); C is
            the O of the layer before.
        chosen: components of each image, (B, K), int64, 0 to N - 1; checked where the CPU computes.

    Returns:
        (B * K, O, M), O of the last layer.

    Raises:
        ConfigError: shapes that do not fit together; on a CPU, choices out of range.

    Source: GM-SOP (NeurIPS 2018), section 3.2, the layers of a parametric component.
    """
    _require_fitting(x, layers, chosen)
    if not x.is_meta and x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    flat = [w for weights in layers for w in weights]
    if is_decomposed(x, *flat):
        if _dense_when_exported.get() and is_exporting():
            return _of_all_components(x, layers, chosen)
        x = x.repeat_interleave(chosen.shape[1], 0)
        for weights in layers:
            x = torch.bmm(stacked(weights, x.dtype).index_select(0, chosen.flatten()), x).relu()
        return x
    keep = torch.is_grad_enabled() and (x.requires_grad or any(w.requires_grad for w in flat))
    keep = keep or is_tracing()  # what is traced may be trained later
    run = _on_cpu if not keep and is_plain_inference(x, chosen, *flat) else _component_conv
    return run(x, flat, len(layers), chosen.flatten(), keep)[-1]


_dense_when_exported: ContextVar[bool] = ContextVar("dense_when_exported", default=False)


@contextmanager
def routing_when_exported(routing: str) -> Iterator[None]:
    """Have `torch.export` record the products of the chosen components ("sparse"), or of all of them ("dense")."""
    token = _dense_when_exported.set(routing == "dense")
    try:
        yield
    finally:
        _dense_when_exported.reset(token)


def _of_all_components(x: Tensor, layers: Sequence[Sequence[Tensor]], chosen: Tensor) -> Tensor:
    """Compute all components of every image and take the chosen: more work, but no weights are gathered per pair."""
    x = x.unsqueeze(1)
    for weights in layers:
        x = torch.matmul(stacked(weights, x.dtype), x).relu()
    images, components = x.shape[:2]
    first = torch.arange(images, device=x.device).unsqueeze(1) * components
    return x.flatten(0, 1).index_select(0, (first + chosen).flatten())


def _require_fitting(x: Tensor, layers: Sequence[Sequence[Tensor]], chosen: Tensor) -> None:
    fits = x.dim() == 3 and chosen.dim() == 2 and chosen.shape[0] == x.shape[0] and len(layers) > 0
    channels = x.shape[1] if fits else 0
    for weights in layers if fits else ():
        fits = fits and len(weights) == len(layers[0]) > 0
        shape = weights[0].shape if fits else torch.Size()
        fits = fits and shape[1:] in ((channels,), (channels, 1, 1)) and all(w.shape == shape for w in weights)
        channels = shape[0] if fits else 0
    if not fits:
        shapes = [sorted({tuple(w.shape) for w in weights}) for weights in layers]
        raise ConfigError(
            f"component_conv: features {tuple(x.shape)}, weights {shapes} and choices {tuple(chosen.shape)} "
            f"do not fit together: expected (B, C, M), for each layer N times (O, C) or (O, C, 1, 1), and (B, K)"
        )


def _by_layer(weights: Sequence[Tensor], num_layers: int) -> list[Sequence[Tensor]]:
    size = len(weights) // num_layers
    return [weights[start : start + size] for start in range(0, len(weights), size)]


def _room(x: Tensor, weights: Sequence[Tensor], num_layers: int, pairs: int, hidden: int) -> list[Tensor]:
    """Return room for the result of each layer: the last one's of `pairs` pairs, the hidden ones' of `hidden` pairs."""
    features = [own[0].shape[0] for own in _by_layer(weights, num_layers)]
    return [*(x.new_empty(hidden, f, x.shape[2]) for f in features[:-1]), x.new_empty(pairs, features[-1], x.shape[2])]


@torch.library.custom_op("gmsop::component_conv", mutates_args=())
def _component_conv(x: Tensor, weights: Sequence[Tensor], num_layers: int, chosen: Tensor, keep: bool) -> list[Tensor]:
    """Return the result of each layer, (P, O, M); without `keep` those of hidden layers are (0, O, M)."""
    outs = []
    with no_autocast(x):
        for own in _by_layer(weights, num_layers):
            x = layer_forward(x, own, chosen)
            outs.append(x)
    return outs if keep else [*(h.new_empty(0, *h.shape[1:]) for h in outs[:-1]), x]


@_component_conv.register_kernel("cpu")
def _on_cpu(x: Tensor, weights: Sequence[Tensor], num_layers: int, chosen: Tensor, keep: bool) -> list[Tensor]:
    outs = _room(x, weights, num_layers, len(chosen), len(chosen) if keep else 1)
    choices, components = chosen.tolist(), len(weights) // num_layers
    if choices and not 0 <= min(choices) <= max(choices) < components:
        raise ConfigError(
            f"component_conv: choices from {min(choices)} to {max(choices)}, of {components} components, 0 to "
            f"{components - 1}"
        )
    with no_autocast(x):
        forward_on_cpu(x, _by_layer(weights, num_layers), choices, outs)
    return outs if keep else [*(h[:0] for h in outs[:-1]), outs[-1]]


@_component_conv.register_fake
def _(x: Tensor, weights: Sequence[Tensor], num_layers: int, chosen: Tensor, keep: bool) -> list[Tensor]:
    return _room(x, weights, num_layers, chosen.shape[0], chosen.shape[0] if keep else 0)


@torch.library.custom_op("gmsop::component_conv_backward", mutates_args=())
def _backward(
    grad: Tensor,
    outs: Sequence[Tensor],
    x: Tensor,
    weights: Sequence[Tensor],
    chosen: Tensor,
    need_x: bool,
    need_weights: bool,
) -> list[Tensor]:
    """Return the gradient of `x`, empty if not needed, and then those of the weights, if needed.

    The weights' gradients are stacked, one tensor per layer. On a CPU each weight has a tensor of its own, since the C
    library clears large blocks every time it gives them out.
    """
    of_weights = []
    with no_autocast(x):
        layers = zip(_by_layer(weights, len(outs)), outs, (x, *outs[:-1]), strict=True)
        for index, (own, out, came_in) in reversed(list(enumerate(layers))):
            grad, of_own = layer_backward(grad, out, came_in, own, chosen, need_x or index > 0, need_weights)
            of_weights += [of_own.view(len(own), *own[0].shape)] if need_weights else []
    return [grad, *reversed(of_weights)]


@_backward.register_kernel("cpu")
def _(
    grad: Tensor,
    outs: Sequence[Tensor],
    x: Tensor,
    weights: Sequence[Tensor],
    chosen: Tensor,
    need_x: bool,
    need_weights: bool,
) -> list[Tensor]:
    grad_x, *of_weights = _room_for_gradients(outs, x, weights, need_x, need_weights)
    # In half precision a sum over many pairs would lose too many digits.
    wide = torch.promote_types(weights[0].dtype, torch.float32)
    sums = _by_layer([g.flatten(1).to(wide) for g in of_weights], len(outs)) if need_weights else []
    layers = _by_layer(weights, len(outs))
    with no_autocast(x):
        backward_on_cpu(
            grad, outs, x, layers, chosen.tolist(), grad_x if need_x else None, sums if need_weights else None
        )
    return [grad_x, *(g.to(w.dtype).view(w.shape) for g, w in zip(chain(*sums), weights, strict=False))]


@_backward.register_fake
def _(
    grad: Tensor,
    outs: Sequence[Tensor],
    x: Tensor,
    weights: Sequence[Tensor],
    chosen: Tensor,
    need_x: bool,
    need_weights: bool,
) -> list[Tensor]:
    return _room_for_gradients(outs, x, weights, need_x, need_weights)


def _room_for_gradients(
    outs: Sequence[Tensor], x: Tensor, weights: Sequence[Tensor], need_x: bool, need_weights: bool
) -> list[Tensor]:
    of_x = x.new_empty(x.shape if need_x else 0)
    if not need_weights:
        return [of_x]
    if x.device.type == "cpu":
        return [of_x, *(w.new_empty(w.shape) for w in weights)]
    return [of_x, *(own[0].new_empty(len(own), *own[0].shape) for own in _by_layer(weights, len(outs)))]


def _setup_context(
    ctx: Any, inputs: tuple[Tensor, Sequence[Tensor], int, Tensor, bool], output: Sequence[Tensor]
) -> None:
    x, weights, ctx.num_layers, chosen, _ = inputs
    ctx.save_for_backward(x, chosen, *output, *weights)
    ctx.set_materialize_grads(False)  # else zeros would be written as the hidden layers' gradients


def _gradients(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Tensor | None, Any, None, None, None]:
    x, chosen, *others = ctx.saved_tensors
    outs, weights = others[: ctx.num_layers], others[ctx.num_layers :]
    need_x, need_weights, *_ = ctx.needs_input_grad
    none: list[Tensor | None] = [None] * len(weights)
    if grads[-1] is None:
        return None, none, None, None, None
    grad_x, *of_weights = _backward(grads[-1], outs, x, weights, chosen, need_x, any(need_weights))
    if of_weights and of_weights[0].dim() > weights[0].dim():
        of_weights = [g for stacked in of_weights for g in stacked.unbind()]
    return grad_x if need_x else None, of_weights or none, None, None, None


_component_conv.register_autograd(_gradients, setup_context=_setup_context)


@register_flop_formula(torch.ops.gmsop.component_conv)
def _flops(
    x: Sequence[int], weights: Sequence[Sequence[int]], num_layers: int, chosen: Sequence[int], *_: Any, **__: Any
) -> int:
    one_of_each = weights[:: len(weights) // num_layers]
    return sum(2 * chosen[0] * features * channels * x[2] for features, channels, *_ in one_of_each)
