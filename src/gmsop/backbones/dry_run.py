"""Run a network without its numbers, to learn shapes and which layers the features depend on."""

import copy
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

Source = Callable[[nn.Module, Tensor], Any]
"""Gives a network's features of images: one tensor, or a tuple of them."""


def shapes_of(source: Source, model: nn.Module, size: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the shapes of one image's features, without computing numbers where possible; [] if none are tensors."""
    like = next(model.parameters())
    with evaluating(model), torch.no_grad():
        try:
            out = source(_on_meta(model), torch.empty(1, *size, device="meta", dtype=like.dtype))
        except Exception:  # the model has its own mind about devices
            out = source(model, torch.zeros(1, *size, device=like.device, dtype=like.dtype))
    every = out if isinstance(out, tuple | list) else (out,)
    return [tuple(each.shape) for each in every] if all(isinstance(each, Tensor) for each in every) else []


def _on_meta(model: nn.Module) -> nn.Module:
    """Copy a model without its numbers. What it keeps from a call to the next is then the copy's, not its own."""
    memo: dict[int, Any] = {id(b): torch.empty_like(b, device="meta") for b in model.buffers()}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
    return copy.deepcopy(model, memo)


@contextmanager
def evaluating(model: nn.Module) -> Any:
    """Put a model in evaluation mode, and afterwards every module of it in the mode that it had."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


class Unused(NamedTuple):
    """Names what the features do not depend on."""

    modules: list[str]
    """Of modules that nothing calls, and none of whose parameters reaches the features."""
    parameters: set[str]
    """Of all parameters that do not reach them, those of the modules included."""


def unused_by(source: Source, model: nn.Module, size: Sequence[int]) -> Unused:
    """Find the layers that follow the pooling; nothing, if the network cannot be run without its numbers."""
    with evaluating(model), torch.enable_grad():
        try:
            copied = _on_meta(model).requires_grad_()
            called: set[nn.Module] = set()
            for module in copied.modules():
                module.register_forward_pre_hook(lambda module, _: called.add(module))
            x = torch.empty(1, *size, device="meta", dtype=next(model.parameters()).dtype)
            out = source(copied, x)
            total = sum(each.sum() for each in (out if isinstance(out, tuple) else (out,)))
            inputs = list(copied.named_parameters())
            grads = torch.autograd.grad(cast(Tensor, total), [parameter for _, parameter in inputs], allow_unused=True)
            if hasattr(copied, "forward_intermediates") and not isinstance(out, tuple):
                cast(Any, copied).forward_intermediates(x)
        except Exception:  # as in `shapes_of`
            return Unused([], set())
    unused = {name for (name, _), grad in zip(inputs, grads, strict=True) if grad is None}
    modules: list[str] = []
    heads: list[str] = []
    for name, module in copied.named_modules():
        if name and hasattr(module, "reset"):  # timm makes a head anew by it: the head stays, but for its layers
            heads.append(name)
        in_head = any(f"{name}.".startswith(f"{head}.") for head in heads)
        nested = any(name.startswith(f"{outer}.") for outer in modules)
        inside = [f"{name}.{own}" for own, _ in module.named_parameters()]
        whole = bool(name) and not nested and not (in_head and any(True for _ in module.children()))
        if whole and inside and unused.issuperset(inside) and called.isdisjoint(module.modules()):
            modules.append(name)
    return Unused(modules, unused)
