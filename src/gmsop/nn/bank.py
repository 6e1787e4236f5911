"""A bank of like components as one operation over all (image, component) pairs, instead of one call per component."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gmsop.nn.pooling import ISqrtCovPool, ParametricGAP, ParametricSOP
from gmsop.ops import component_conv, second_order_pool
from gmsop.ops.exporting import is_tracing


class UniformBank(NamedTuple):
    """What N like components compute: 1x1 convolutions with ReLU, then pooling."""

    layers: list[list[Tensor]]
    """For each convolution the weights of all components, (O, C, 1, 1)."""
    num_iters: int | None
    """Newton-Schulz iterations of second-order pooling; None: the mean."""


def uniform_bank(components: Iterable[nn.Module]) -> UniformBank | None:
    """The components as one, if all are `ParametricSOP`, or all `ParametricGAP`, of the same widths, and nobody
    replaced a part of one or hooked into it; otherwise None: then only calling them tells what they do."""
    found = [_weights_and_iterations(component) for component in components]
    if None in found:
        return None
    weights, num_iters = zip(*found, strict=True)
    if len(set(num_iters)) > 1:
        return None
    layers = [list(layer) for layer in zip(*weights, strict=True)]
    uniform = all(w.shape == layer[0].shape for layer in layers for w in layer)
    return UniformBank(layers, num_iters[0]) if uniform else None


def bank_forward(bank: UniformBank, x: Tensor, chosen: Tensor) -> Tensor:
    """Vectors (B * K, V): every image of `x` (B, C, H, W) through each of its components, `chosen` (B, K).

    Reads nothing on the host, but on a CPU.
    """
    vectors = []
    for part in _parts(x, chosen.shape[1] * bank.layers[-1][0].shape[0]):
        rows = component_conv(x[part].flatten(2), bank.layers, chosen[part])
        vectors.append(_mean(rows) if bank.num_iters is None else second_order_pool(rows, bank.num_iters))
    return vectors[0] if len(vectors) == 1 else torch.cat(vectors)


def _mean(rows: Tensor) -> Tensor:
    """Not `rows.mean(2)`: its backward pass writes the gradient out for every position, that of a sum does not."""
    wide = torch.promote_types(rows.dtype, torch.float32)  # a sum in float16 may be too large
    return (rows.sum(2, dtype=wide) / rows.shape[2]).to(rows.dtype)


def _parts(x: Tensor, channels: int) -> list[slice]:
    """The batch; on a CPU, where no gradient wants them together, parts whose `channels` fit into `REUSED_BYTES`."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling() or is_tracing():
        return [slice(None)]
    size = max(1, REUSED_BYTES // max(1, channels * x.shape[2:].numel() * x.element_size()))
    return [slice(start, start + size) for start in range(0, max(1, len(x)), size)]


REUSED_BYTES = 8 << 20
"""Blocks well below 32 MiB the C library keeps and gives out again; larger ones come fresh from the system every time,
and clearing them takes a sixth of a large second-order batch's time, and two fifths of a first-order one's
(benchmarks/RESULTS.md)."""


def _weights_and_iterations(component: nn.Module) -> tuple[list[Tensor], int | None] | None:
    """None if the component has a hook, or a part that it was not built with. Asked at every call, so it goes round
    `nn.Module`'s slow look-up of parameters and parts."""
    parts: dict[str, Any] = component._modules
    if type(component) is ParametricGAP:
        convs, others, num_iters = [parts["conv"]], [], None
    elif type(component) is ParametricSOP and type(parts["pool"]) is ISqrtCovPool:
        pool, reduce = parts["pool"], parts["pool"]._modules["reduce"]
        convs, others, num_iters = [parts["conv1"], parts["conv2"]], [pool, reduce], pool.num_iters
        if type(reduce) is not nn.Identity:
            return None
    else:
        return None
    if not all(map(_is_product, convs)) or any(map(_is_changed, [component, *convs, *others])):
        return None
    return [_parameter(conv, "weight") for conv in convs], num_iters


def _parameter(conv: nn.Module, name: str) -> Any:
    """What wraps a module for several devices may keep its parameters elsewhere, and leave plain attributes."""
    return conv._parameters[name] if name in conv._parameters else getattr(conv, name)


def _is_product(conv: Any) -> bool:
    """Whether it is a convolution that only multiplies by one matrix."""
    if type(conv) is not nn.Conv2d:
        return False
    return (_parameter(conv, "bias"), conv.kernel_size, conv.stride, conv.padding, conv.groups) == _PRODUCT


_PRODUCT = (None, (1, 1), (1, 1), (0, 0), 1)


def _is_changed(part: nn.Module) -> bool:
    """Whether it has a hook, or was given a `forward` of its own, as libraries do that patch a model."""
    hooks = part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
    return bool(hooks) or "forward" in part.__dict__
