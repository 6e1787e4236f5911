"""These functions decide whether a Triton kernel runs. Where none does, plain PyTorch computes the same, slower."""

import functools
import importlib.util
import logging
import os
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")
log = logging.getLogger("gmsop")
_failed: set[str] = set()


@functools.cache
def usable(device: torch.device) -> bool:
    """Return whether the kernels run on tensors of `device`.

    They need CUDA of compute capability 8.0 or more (Ampere), and Triton. `GMSOP_KERNELS=0` in the environment turns
    them off. If a CUDA device does not use them, one line is logged at INFO.
    """
    if device.type != "cuda":
        return False
    reason = ""
    if os.environ.get("GMSOP_KERNELS") == "0":
        reason = "GMSOP_KERNELS is 0"
    elif importlib.util.find_spec("triton") is None:
        reason = "Triton is not installed"
    elif torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        reason = (
            f"they need an NVIDIA GPU of compute capability 8.0, and this is a {torch.cuda.get_device_name(device)}"
        )
    if reason:
        log.info("gmsop's Triton kernels are not used on %s: %s", device, reason)
    return not reason


def attempt(name: str, precision: str, run: Callable[[], T], x: torch.Tensor) -> T | None:
    """Return what the kernel in `run` computes, or None if it does not run on this GPU.

    A kernel that does not compile, or does not fit, costs one warning and speed, not the run. It is not tried again for
    features, `x` (B, C, M), of that dtype and number of channels. Running out of memory is raised as ever.
    """
    name = f"{name} of {x.shape[1]} channels in {str(x.dtype).removeprefix('torch.')}, {precision},"
    if name in _failed:
        return None
    try:
        with torch.cuda.device_of(x):  # Triton launches on the current device, not on that of its tensors
            return run()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        _failed.add(name)
        log.warning("gmsop's kernel %s does not run here, going on without it: %s", name, error)
        return None
