"""Whether the operators show what they are made of, instead of being one: to an export, to `torch.func`, and to
forward-mode differentiation, which of a custom operator would learn no tangent, and not say so."""

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_exporting() -> bool:
    """Whether `torch.export` is tracing. PyTorch 2.11's own `is_exporting` says so of `torch.compile`, too."""
    return bool(getattr(torch.compiler, "_is_exporting_flag", torch.compiler.is_exporting()))


def is_transformed() -> bool:
    """Whether a transform of `torch.func` is at work: neither operators nor `autograd.Function`s have rules for all of
    them, PyTorch's own functions do."""
    return not torch.compiler.is_compiling() and bool(torch._C._are_functorch_transforms_active())


def shows_its_parts(*inputs: Tensor) -> bool:
    """`is_exporting`, within a transform of `torch.func`, or one of the inputs is differentiated forwards."""
    if is_exporting() or is_transformed():
        return True
    inside = getattr(forward_ad, "_current_level", 0) >= 0
    return inside and any(forward_ad.unpack_dual(x).tangent is not None for x in inputs)


def is_tracing() -> bool:
    """Whether `torch.jit.trace` looks on. What it records must not depend on what the example is like."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined]
