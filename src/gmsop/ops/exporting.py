"""Whether a model is being exported: then the operators show what they are made of."""

import torch


def is_exporting() -> bool:
    """Whether `torch.export` is tracing. PyTorch 2.11's own `is_exporting` says so of `torch.compile`, too."""
    return bool(getattr(torch.compiler, "_is_exporting_flag", torch.compiler.is_exporting()))
