"""Whether the kernels can run here: on a GPU, or in Triton's interpreter; and how to make the operators use them."""

import pytest
import torch

from gmsop.ops import kernels

triton = pytest.importorskip("triton")
tl = triton.language


@triton.jit
def _count(x):
    for i in range(tl.program_id(0), 1):
        tl.store(x + i, 1.0)


def require_kernels() -> None:
    """Skip the test, or the file, where they cannot."""
    try:
        _count[(1,)](torch.zeros(1, device="cuda" if torch.cuda.is_available() else "cpu"))
    except triton.runtime.errors.InterpreterError:  # up to Triton 3.6 it takes an array for a number
        pytest.skip("this Triton's interpreter does not go with NumPy from 2.4 on", allow_module_level=True)


def use_kernels(monkeypatch: pytest.MonkeyPatch, mode: str = "on") -> None:
    """Let the operators take this machine's CPU for a device with kernels."""
    monkeypatch.setattr(kernels, "DEVICE_TYPES", ("cpu", "cuda"))
    monkeypatch.setattr(kernels, "usable", lambda device: True)
    monkeypatch.setenv("GMSOP_KERNELS", mode)
