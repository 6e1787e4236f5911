"""These functions tell who observes a call of an operator: a compiler, exporter, tracer, `torch.func`, or nobody."""

import torch
from torch import Tensor

from gmsop.errors import ConfigError
from gmsop.ops.torch_private import has_tangent, is_exporting, is_transformed, only_usual_dispatch_keys

__all__ = ["is_decomposed", "is_exporting", "is_plain_inference", "is_tracing", "is_transformed"]


def is_decomposed(*inputs: Tensor) -> bool:
    """Return whether to run the plain PyTorch formula in place of a custom operator.

    Three callers cannot use our custom operators: `torch.export`, whose file must run where gmsop is not installed;
    `torch.func`, for whose transforms they have no rules; and forward-mode differentiation, which would get no tangent
    and no error. PyTorch's old exporter to ONNX is refused: it traces for one size of the batch, and knows neither our
    operators nor how the choice of a gate depends on the image.

    Raises:
        ConfigError: `torch.onnx.export(..., dynamo=False)` asks.
    """
    if torch.jit.is_tracing() and torch.onnx.is_in_onnx_export():  # type: ignore[attr-defined]
        raise ConfigError(
            "torch.onnx.export(..., dynamo=False) is PyTorch's old exporter, which records one example and would get a "
            "gate's choice wrong for others: use gmsop.export.export_model, `gmsop export`, or dynamo=True"
        )
    return is_exporting() or is_transformed() or has_tangent(*inputs)


def is_tracing() -> bool:
    """Return whether `torch.jit.trace` records the call; what it records must not depend on the example's numbers."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined]


def is_plain_inference(*inputs: Tensor) -> bool:
    """Return whether nothing observes the call.

    That is: no compiler, tracer, profiler mode, functorch transform or tensor subclass, and all tensors on a CPU. Then
    calling the CPU function directly gives the same result, and saves the tenth of a millisecond that PyTorch's
    dispatcher takes, which matters for one image. When in doubt: False.
    """
    if torch.compiler.is_compiling() or any(type(x) not in _CLASSES or x.device.type != "cpu" for x in inputs):
        return False
    return only_usual_dispatch_keys()


_CLASSES = (Tensor, torch.nn.Parameter)
