"""These functions find out where a value that is not finite comes from."""

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def first_non_finite(model: nn.Module, images: Tensor) -> str | None:
    """Return the name of the first module, innermost first, whose output has a value that is not finite."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = [t for t in (output if isinstance(output, tuple) else (output,)) if isinstance(t, Tensor)]
            if not all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point()):
                found.append(name)

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        model.forward(images)  # not through __call__, which torch.compile may have replaced
    finally:
        for handle in hooks:
            handle.remove()
    return found[0] if found else None


def non_finite_weights(model: nn.Module) -> str | None:
    """Return the name of the first weights that are not finite; None if all are."""
    return next((name for name, p in model.named_parameters() if not bool(p.detach().isfinite().all())), None)


def all_agree(flag: Tensor) -> bool:
    """Return whether the one-element bool tensor is true on every rank."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        flag = flag.to(torch.int32)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MIN)
    return bool(flag)
