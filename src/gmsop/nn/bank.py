"""A bank runs components that are alike as one fused operation over all pairs, not one call per component.

A component says what it computes in `component.fusible()`: 1x1 convolutions with ReLU, then a pooling without
parameters. The bank computes the convolutions of all pairs at once, and calls the pooling itself on the result. So
whatever a pooling computes, the bank computes the same.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.fx
from torch import Tensor, nn

from gmsop.nn.pooling import Fusible
from gmsop.ops import component_conv
from gmsop.ops.observers import is_tracing

torch.fx.wrap("component_conv")  # so symbolic tracing records it as one operation


class Bank(NamedTuple):
    """A bank holds what components that are alike compute: 1x1 convolutions with ReLU, then pooling."""

    layers: list[list[Tensor]]
    """Weights of all components for each convolution, (O, C, 1, 1)."""
    pool: nn.Module
    """The pooling that follows, (P, O, M, 1) to (P, V)."""


def bank_of(components: Iterable[nn.Module]) -> Bank | None:
    """Return the components as a bank, or None if they cannot be fused.

    None means that one has no `fusible`, that they differ in widths or in their pooling, or that one was changed (a
    submodule replaced, a hook added): then only calling the components tells what they compute.
    """
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
    """Return vectors (B * K, V): every image of `x` (B, C, H, W) through each of its components, `chosen` (B, K).

    The host never waits for a GPU.
    """
    vectors = []
    for images in _slices(x, chosen.shape[1] * bank.layers[-1][0].shape[0]):
        pairs = component_conv(x[images].flatten(2), bank.layers, chosen[images])
        vectors.append(bank.pool(pairs.unsqueeze(3)))
    return vectors[0] if len(vectors) == 1 else torch.cat(vectors)


def _slices(x: Tensor, channels: int) -> list[slice]:
    """Return one slice, the batch; on a CPU without gradients, slices whose `channels` fit into `REUSED_BYTES`."""
    if (
        isinstance(x, torch.fx.Proxy)
        or x.device.type != "cpu"
        or torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or is_tracing()
    ):
        return [slice(None)]
    size = max(1, REUSED_BYTES // max(1, channels * x.shape[2:].numel() * x.element_size()))
    return [slice(start, start + size) for start in range(0, max(1, len(x)), size)]


REUSED_BYTES = 8 << 20
"""Bytes of a slice's features. The C library keeps blocks well below 32 MiB and gives them out again. Larger ones come
fresh from the system every time, and clearing them takes a sixth of a large second-order batch's time, and two fifths
of a first-order one's (docs/results/cpu.md)."""


def _fusible(component: nn.Module) -> Fusible | None:
    """Return what the component says that it computes; None if it says nothing, or was changed since it was built.

    This runs at every call, so it goes round `nn.Module`'s slow look-up of parameters and submodules.
    """
    ask = getattr(type(component), "fusible", None)
    found: Fusible | None = None if ask is None else ask(component)
    if found is None or _is_changed(component):
        return None
    return found if all(_is_product(conv) and not _is_changed(conv) for conv in found.convs) else None


def _is_same(pool: nn.Module, other: nn.Module) -> bool:
    """Return whether two poolings compute the same, without parameters and without hooks, in all their submodules."""
    if type(pool) is not type(other) or pool._parameters or pool._buffers or _is_changed(pool):
        return False
    if pool._modules.keys() != other._modules.keys() or _settings(pool) != _settings(other):
        return False
    children = [(child, other._modules[name]) for name, child in pool._modules.items()]
    return all(a is b or (a is not None and b is not None and _is_same(a, b)) for a, b in children)


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return the module's own attributes; one of a kind that may not compare counts as unlike any other."""
    own = {k: v for k, v in module.__dict__.items() if not k.startswith("_")}
    return {k: v if isinstance(v, int | float | str | tuple | None) else object() for k, v in own.items()}


def _parameter(conv: nn.Module, name: str) -> Any:
    """Return a parameter. A wrapper for several devices may keep it elsewhere, and leave a plain attribute."""
    return conv._parameters[name] if name in conv._parameters else getattr(conv, name)


def _is_product(conv: Any) -> bool:
    """Return whether `conv` is a convolution that only multiplies by one matrix."""
    if type(conv) is not nn.Conv2d:
        return False
    return (_parameter(conv, "bias"), conv.kernel_size, conv.stride, conv.padding, conv.groups) == _PRODUCT


_PRODUCT = (None, (1, 1), (1, 1), (0, 0), 1)


def _is_changed(module: nn.Module) -> bool:
    """Return whether the module has a hook, or a `forward` of its own, as libraries set that patch a model."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(hooks) or "forward" in module.__dict__
