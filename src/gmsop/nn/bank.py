"""A bank of like components as one operation over all (image, component) pairs, instead of one call per component."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from gmsop.nn.pooling import ISqrtCovPool, ParametricGAP, ParametricSOP
from gmsop.ops import component_conv, second_order_pool

Bank = Sequence[nn.Module] | nn.ModuleList


def is_uniform(components: Bank) -> bool:
    """Whether `bank_forward` computes what calling the components would: all are `ParametricSOP`, or all
    `ParametricGAP`, of the same widths, and nobody replaced a part of one or hooked into it."""
    first = components[0]
    if type(first) not in (ParametricSOP, ParametricGAP):
        return False
    layout = _layout(first)
    return layout is not None and all(type(c) is type(first) and _layout(c) == layout for c in components)


def bank_forward(components: Bank, x: Tensor, chosen: Tensor) -> Tensor:
    """Vectors (B * K, V): every image of `x` (B, C, H, W) through each of its components, `chosen` (B, K).

    Only for components that `is_uniform`. Reads nothing on the host, but on a CPU.
    """
    first = components[0]
    names = ["conv"] if isinstance(first, ParametricGAP) else ["conv1", "conv2"]
    layers = [[getattr(c, name).weight.flatten(1) for c in components] for name in names]
    vectors = []
    for part in _parts(x, chosen.shape[1] * layers[-1][0].shape[0]):
        rows = component_conv(x[part].flatten(2), layers, chosen[part])
        vectors.append(_mean(rows) if len(layers) == 1 else second_order_pool(rows, first.pool.num_iters))  # type: ignore[union-attr, arg-type]
    return vectors[0] if len(vectors) == 1 else torch.cat(vectors)


def _mean(rows: Tensor) -> Tensor:
    """Not `rows.mean(2)`: its backward pass writes the gradient out for every position, that of a sum does not."""
    wide = torch.promote_types(rows.dtype, torch.float32)  # a sum in float16 may be too large
    return (rows.sum(2, dtype=wide) / rows.shape[2]).to(rows.dtype)


def _parts(x: Tensor, channels: int) -> list[slice]:
    """The batch; on a CPU, where no gradient wants them together, parts whose `channels` fit into `REUSED_BYTES`."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return [slice(None)]
    size = max(1, REUSED_BYTES // max(1, channels * x.shape[2:].numel() * x.element_size()))
    return [slice(start, start + size) for start in range(0, max(1, len(x)), size)]


REUSED_BYTES = 16 << 20
"""Blocks well below 32 MiB the C library keeps and gives out again; larger ones come fresh from the system every time,
and clearing them takes a sixth of a large second-order batch's time, and two fifths of a first-order one's
(benchmarks/RESULTS.md)."""


def _layout(component: nn.Module) -> list[object] | None:
    """What decides a component's computation besides its weights. None if it has a hook, or a part that it was not
    built with: then only calling it tells what it does. Asked at every call, so it goes round `nn.Module`'s slow
    look-up of parameters and parts."""
    layout: list[object] = []
    for part in _walk(component):
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks:
            return None
        if type(part) is nn.Conv2d:
            if (part._parameters["bias"], part.kernel_size, part.stride, part.padding, part.groups) != _PLAIN:
                return None
            layout.append(part._parameters["weight"].shape)  # type: ignore[union-attr]
        elif type(part) is ISqrtCovPool and type(part._modules["reduce"]) is nn.Identity:
            layout.append(part.num_iters)
        elif type(part) not in (ParametricSOP, ParametricGAP, nn.Identity):
            return None
    return layout


def _walk(module: nn.Module) -> Iterator[nn.Module]:
    """Like `modules()`, without its set of what was seen: a part that occurs twice does no harm here."""
    yield module
    for child in module._modules.values():
        if child is not None:
            yield from _walk(child)


_PLAIN = (None, (1, 1), (1, 1), (0, 0), 1)
"""A convolution without bias that is one product of matrices."""
