"""Measure the operator's table of `gmsop benchmark`."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gmsop import ops
from gmsop.ops.second_order import reference
from gmsop.speed import baselines
from gmsop.speed.registry import FLOAT32, register_table
from gmsop.speed.timing import Measurement, compare, relative_error
from gmsop.utils.text import first_line


@register_table("operator")
def operator_table(device: torch.device, small: bool = False) -> Iterator[Measurement]:
    """Second-order pooling, forward and backward: D = 128 channels from 256 positions, three iterations."""
    batch = 4 if small else 64 if device.type == "cpu" else 2048
    x = torch.randn(batch, 128, 256, device=device).relu().requires_grad_()
    probe = torch.randn(batch, ops.triu_size(128), device=device)
    candidates: dict[str, Callable[[Tensor], Tensor]] = {
        "plain autograd": baselines.plain,
        "fast MPN-COV's way": baselines.stored,
        "gmsop": ops.second_order_pool,
    }
    if not small:
        candidates["torch.compile of plain"] = torch.compile(baselines.plain)
        candidates["eigh (exact root)"] = baselines.eigh
    if hasattr(torch.linalg, "matrix_sqrth"):  # PyTorch 2.14
        candidates["torch.linalg.matrix_sqrth (exact root)"] = baselines.torch_root
    few = torch.arange(batch)[[0, 1, -2, -1]]  # the last, too: a kernel may take one image after the other
    small_x = x.detach()[few].double().cpu().requires_grad_()
    errors, runs = {}, {}
    for name, function in candidates.items():
        root = reference.eigh_sqrt if "exact" in name else reference.newton_schulz_sqrt
        expected = reference.triu_vectorize(root(reference.covariance_pool(small_x)))
        (expected_gradient,) = torch.autograd.grad(expected, small_x, probe[few].double().cpu())
        out = function(x)
        (gradient,) = torch.autograd.grad(out, x, probe)
        errors[name] = max(relative_error(out[few], expected), relative_error(gradient[few], expected_gradient))
        runs[name] = _forward_and_backward(function, x, probe)
    bounds = {name: 1e-2 if "exact" in name else FLOAT32 for name in candidates}  # an exact root divides by small roots
    for row in compare(f"{batch} x 128 x 256, float32", runs, errors, bounds, device, rounds=5 if small else 15):
        row.note = f"gradient at 49 positions: {_gradient_at_49(candidates[row.candidate], device)}"
        yield row


def _forward_and_backward(function: Callable[[Tensor], Tensor], x: Tensor, probe: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(function(x), x, probe)


def _gradient_at_49(function: Callable[[Tensor], Tensor], device: torch.device) -> str:
    """Say whether the gradient is finite where a covariance of 128 channels has rank 48, the usual case."""
    x = torch.randn(2, 128, 49, device=device, generator=torch.Generator(device).manual_seed(0)).requires_grad_()
    try:
        (gradient,) = torch.autograd.grad(function(x).square().sum(), x)
    except RuntimeError as error:
        return first_line(error)[:60]
    return "finite" if bool(gradient.isfinite().all()) else "NaN or infinite"
