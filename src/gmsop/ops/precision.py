"""Second-order statistics are computed in float32 or better, whatever autocast says.

A covariance in bfloat16 keeps three digits, and the matrix square root amplifies what is lost in the small eigenvalues.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which operations on the device of `x` keep the dtype of their inputs."""
    device = x.device.type
    if device == "meta":  # has no autocast
        return nullcontext()
    # For one image on a CPU the context costs as much as a matrix product, so it is left out where autocast is off.
    # Compiled code keeps it, since it may run later where autocast is on.
    if not torch.compiler.is_compiling() and not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` itself if it is float32 or float64; a float32 copy if it is float16 or bfloat16."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def like_input(out: Tensor, x: Tensor) -> Tensor:
    """Return `out` in the dtype of `x`, so that a model cast to half precision as a whole works.

    Inside autocast `out` stays as it is: there every consumer casts for itself, and rounding early only loses digits.
    """
    if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):
        return out
    return out.to(x.dtype)


def product_precision() -> str:
    """Return how the kernels multiply float32 numbers: "tf32x3", "tf32" or "bf16".

    It follows `torch.set_float32_matmul_precision`, or the newer `torch.backends.cuda.matmul.fp32_precision`, which
    PyTorch has for all products.

    "highest" (PyTorch's default): three TF32 products, which keep float32's digits; "high": one TF32 product, about
    three digits; "medium": bfloat16 operands, about two. Sums are float32 in all of them.
    """
    try:
        return {"highest": "tf32x3", "high": "tf32", "medium": "bf16"}[torch.get_float32_matmul_precision()]
    except RuntimeError:  # the older function refuses where the newer setting was used
        return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"
