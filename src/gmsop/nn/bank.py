"""A bank: like components run as one operation over all (image, component) pairs, not one call per component.

A component is asked what it computes, `component.fusible()`: 1x1 convolutions with ReLU, then a pooling without
parameters. The bank computes the convolutions of all pairs at once, and calls the pooling itself on what comes out, so
that whatever a pooling computes, the bank computes the same.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gmsop.nn.pooling import Fusible
from gmsop.ops import component_conv
from gmsop.ops.observers import is_tracing


class Bank(NamedTuple):
    """What like components compute: 1x1 convolutions with ReLU, then pooling."""

    layers: list[list[Tensor]]
    """For each convolution the weights of all components, (O, C, 1, 1)."""
    pool: nn.Module
    """The pooling that follows, (P, O, M) to (P, V)."""


def bank_of(components: Iterable[nn.Module]) -> Bank | None:
    """The components as a bank. None if one cannot be fused, if they differ in widths or in their pooling, or if
    somebody replaced a submodule of one or hooked into it: then only calling them tells what they do."""
    found = [_fusible(component) for component in components]
    first = found[0]
    if first is None:
        return None
    layers: list[list[Tensor]] = [[] for _ in first.convs]
    for each in found:
        if each is None or len(each.convs) != len(layers) or not _is_same(each.pool, first.pool):
            return None
        for layer, conv in zip(layers, each.convs, strict=True):
            layer.append(_parameter(conv, "weight"))
    uniform = all(w.shape == layer[0].shape for layer in layers for w in layer)
    return Bank(layers, first.pool) if uniform else None


def bank_forward(bank: Bank, x: Tensor, chosen: Tensor) -> Tensor:
    """Vectors (B * K, V): every image of `x` (B, C, H, W) through each of its components, `chosen` (B, K).

    Reads nothing on the host, but on a CPU.
    """
    vectors = []
    for images in _slices(x, chosen.shape[1] * bank.layers[-1][0].shape[0]):
        pairs = component_conv(x[images].flatten(2), bank.layers, chosen[images])
        vectors.append(bank.pool(pairs))
    return vectors[0] if len(vectors) == 1 else torch.cat(vectors)


def _slices(x: Tensor, channels: int) -> list[slice]:
    """The whole batch; on a CPU without gradients, slices so small that their `channels` fit into `REUSED_BYTES`."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling() or is_tracing():
        return [slice(None)]
    size = max(1, REUSED_BYTES // max(1, channels * x.shape[2:].numel() * x.element_size()))
    return [slice(start, start + size) for start in range(0, max(1, len(x)), size)]


REUSED_BYTES = 8 << 20
"""Blocks well below 32 MiB the C library keeps and gives out again; larger ones come fresh from the system every time,
and clearing them takes a sixth of a large second-order batch's time, and two fifths of a first-order one's
(benchmarks/RESULTS.md)."""


def _fusible(component: nn.Module) -> Fusible | None:
    """What the component says that it computes; None if it says nothing, or was changed since it was built. Asked at
    every call, so it goes round `nn.Module`'s slow look-up of parameters and submodules."""
    ask = getattr(type(component), "fusible", None)
    found: Fusible | None = None if ask is None else ask(component)
    if found is None or _is_changed(component):
        return None
    return found if all(_is_product(conv) and not _is_changed(conv) for conv in found.convs) else None


def _is_same(pool: nn.Module, other: nn.Module) -> bool:
    """Whether two poolings without parameters compute the same and nobody observes them, their submodules included."""
    if type(pool) is not type(other) or pool._parameters or pool._buffers or _is_changed(pool):
        return False
    if len(pool._modules) != len(other._modules) or _settings(pool) != _settings(other):
        return False
    children = zip(pool._modules.items(), other._modules.items(), strict=True)
    return all(name == its_name and _is_same(child, its) for (name, child), (its_name, its) in children)  # type: ignore[arg-type]


def _settings(module: nn.Module) -> dict[str, Any]:
    """The module's own attributes; of a kind that may not compare, each as something of its own."""
    own = {k: v for k, v in module.__dict__.items() if not k.startswith("_")}
    return {k: v if isinstance(v, int | float | str | tuple | None) else object() for k, v in own.items()}


def _parameter(conv: nn.Module, name: str) -> Any:
    """What wraps a module for several devices may keep its parameters elsewhere, and leave plain attributes."""
    return conv._parameters[name] if name in conv._parameters else getattr(conv, name)


def _is_product(conv: Any) -> bool:
    """Whether it is a convolution that only multiplies by one matrix."""
    if type(conv) is not nn.Conv2d:
        return False
    return (_parameter(conv, "bias"), conv.kernel_size, conv.stride, conv.padding, conv.groups) == _PRODUCT


_PRODUCT = (None, (1, 1), (1, 1), (0, 0), 1)


def _is_changed(module: nn.Module) -> bool:
    """Whether it has a hook, or was given a `forward` of its own, as libraries do that patch a model."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(hooks) or "forward" in module.__dict__
