"""A file's description can ask for a model of any size: bound what building it may cost by what the file holds."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as hooks

from gmsop.errors import CheckpointError

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Floating-point types in which gmsop's models can be."""


@contextmanager
def without_memory(source: Any, tensors: int) -> Iterator[None]:
    """Build on the meta device, and stop when there are far more modules than a file of so many tensors needs.

    Raises:
        CheckpointError: there are.
    """
    most, thread, count = 20 * tensors + 2000, threading.get_ident(), 0

    def add(*_: Any) -> None:
        nonlocal count
        count += threading.get_ident() == thread
        if count > most:
            raise CheckpointError(f"{source}: describes a far larger network than its {tensors:,} tensors are of")

    handles = [
        hooks.register_module_parameter_registration_hook(add),
        hooks.register_module_buffer_registration_hook(add),
        hooks.register_module_module_registration_hook(add),
    ]
    try:
        with torch.device("meta"):
            yield
    finally:
        for handle in handles:
            with suppress(KeyError):
                handle.remove()


def require_known_dtypes(state: Mapping[str, Tensor], source: Any) -> None:
    """Refuse tensors of a type that models are never in.

    Raises:
        CheckpointError: one is; the text names it.
    """
    for name, value in state.items():
        if (value.is_floating_point() or value.is_complex()) and value.dtype not in DTYPES:
            raise CheckpointError(f"{source}: {name} is {value.dtype}; models are in float16, bfloat16, 32 or 64")
