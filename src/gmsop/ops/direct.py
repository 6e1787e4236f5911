"""Whether an operator may skip PyTorch's dispatcher, whose tenth of a millisecond counts for one image on a CPU."""

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet


def is_plain_inference(*inputs: Tensor) -> bool:
    """Whether a call that needs no gradient would end in the operator's function for a CPU with nobody looking on: no
    compiler, tracer, counter, transform, nor a tensor of another class. Whatever is unknown counts as somebody."""
    if torch.compiler.is_compiling() or any(type(x) not in _CLASSES or x.device.type != "cpu" for x in inputs):
        return False
    return _active_keys is not None and _active_keys().raw_repr() | _ALWAYS == _ALWAYS


_CLASSES = (Tensor, torch.nn.Parameter)
_active_keys = getattr(torch._C, "_dispatch_tls_local_include_set", None)  # a name that PyTorch does not promise
_ALWAYS = (DispatchKeySet(DispatchKey.BackendSelect) | DispatchKeySet(DispatchKey.ADInplaceOrView)).raw_repr()
"""Dispatch keys of every eager call; modes and transforms add their own."""
