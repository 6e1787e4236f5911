"""A bank of like components as one operation over all (image, component) pairs, instead of one call per component."""

from collections.abc import Sequence

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


def pays(components: Bank, x: Tensor, top_k: int) -> bool:
    """Whether `bank_forward` is at least as fast as calling the components one by one.

    Always on a GPU, and under `torch.compile`, where it alone has no graph break. On a CPU while a layer's output for
    all pairs is within what the C library keeps for itself: larger blocks come fresh from the system every time, and
    its clearing them costs more than the bank saves (benchmarks/RESULTS.md).
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return True
    widest = max(p.shape[0] for p in components[0].parameters())
    return len(x) * top_k * widest * x.shape[2:].numel() * x.element_size() <= 32 << 20


def bank_forward(components: Bank, x: Tensor, chosen: Tensor) -> Tensor:
    """Vectors (B * K, V): every image of `x` (B, C, H, W) through each of its components, `chosen` (B, K).

    Only for components that `is_uniform`. Reads nothing on the host, but on a CPU.
    """
    rows = x.flatten(2)
    if isinstance(components[0], ParametricGAP):
        return _convolve(rows, components, "conv", chosen).mean(2)
    rows = _convolve(rows, components, "conv1", chosen)
    rows = _convolve(rows, components, "conv2", chosen.flatten()[:, None])
    return second_order_pool(rows, components[0].pool.num_iters)  # type: ignore[union-attr, arg-type]


def _convolve(rows: Tensor, components: Bank, name: str, chosen: Tensor) -> Tensor:
    return component_conv(rows, [getattr(c, name).weight.flatten(1) for c in components], chosen)


def _layout(component: nn.Module) -> list[object] | None:
    """What decides a component's computation besides its weights. None if it has a hook, or a part that it was not
    built with: then only calling it tells what it does."""
    layout: list[object] = []
    for part in component.modules():
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks:
            return None
        if type(part) is nn.Conv2d and (part.bias, part.kernel_size, part.stride, part.padding, part.groups) == _PLAIN:
            layout.append(part.weight.shape)
        elif type(part) is ISqrtCovPool and type(part.reduce) is nn.Identity:
            layout.append(part.num_iters)
        elif type(part) not in (ParametricSOP, ParametricGAP, nn.Identity):
            return None
    return layout


_PLAIN = (None, (1, 1), (1, 1), (0, 0), 1)
"""A convolution without bias that is one product of matrices."""
