"""Triton kernels for CUDA. Every one computes what `gmsop.ops` computes without it; see `usable` for when they run."""

import functools
import importlib.util
import logging
import os

import torch

log = logging.getLogger("gmsop")


@functools.cache
def usable(device: torch.device) -> bool:
    """Whether the kernels run on tensors of `device`: CUDA of compute capability 8.0 or more (Ampere), with Triton.

    `GMSOP_KERNELS=0` in the environment turns them off. Where a CUDA device goes without, one line is logged at INFO.
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
