"""This file holds every use of a name that PyTorch does not promise to keep.

Where a name is gone, its function gives an answer that is right, if slower. The names are looked up at every call, so
that a test can take each away.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _python_dispatch

_MISSING = object()


def _private(owner: Any, name: str) -> Any:
    return getattr(owner, name, _MISSING)


def only_usual_dispatch_keys() -> bool:
    """Return whether PyTorch's dispatcher has only the keys of a plain eager call; False if unknown.

    Modes and transforms add keys of their own.
    """
    active, usual = _private(torch._C, "_dispatch_tls_local_include_set"), _usual_keys()
    return active is not _MISSING and usual is not None and active().raw_repr() | usual == usual


@cache
def _usual_keys() -> int | None:
    keys, key_set = _private(torch._C, "DispatchKey"), _private(torch._C, "DispatchKeySet")
    if keys is _MISSING or key_set is _MISSING:
        return None
    return int((key_set(keys.BackendSelect) | key_set(keys.ADInplaceOrView)).raw_repr())


def is_exporting() -> bool:
    """Return whether `torch.export` is tracing.

    Where the private flag is gone, PyTorch's public `is_exporting` answers. In PyTorch 2.11 it is true of
    `torch.compile`, too: the operators are then decomposed, which is right, but slower.
    """
    flag = _private(torch.compiler, "_is_exporting_flag")
    return bool(torch.compiler.is_exporting() if flag is _MISSING else flag)


def has_dispatch_mode() -> bool:
    """Return whether a mode looks on, such as one that counts operations or makes tensors without data."""
    current = _private(_python_dispatch, "_get_current_dispatch_mode")
    return current is not _MISSING and current() is not None


def is_transformed() -> bool:
    """Return whether a transform of `torch.func` is at work in an eager call; True if unknown."""
    if torch.compiler.is_compiling():
        return False
    active = _private(torch._C, "_are_functorch_transforms_active")
    return True if active is _MISSING else bool(active())


def has_tangent(*inputs: Tensor) -> bool:
    """Return whether one of the inputs takes part in forward-mode differentiation."""
    level = _private(forward_ad, "_current_level")
    return (level is _MISSING or level >= 0) and any(forward_ad.unpack_dual(x).tangent is not None for x in inputs)


def aot_inductor() -> Any:
    """Return what has `aoti_compile_and_package` and `aoti_load_package`; None where they are gone.

    PyTorch documents both, in a module whose name says that it is private.
    """
    found = _private(torch, "_inductor")
    names = ("aoti_compile_and_package", "aoti_load_package")
    return None if any(_private(found, name) is _MISSING for name in names) else found
