"""PyTorch's SyncBatchNorm on a CPU: the five operators that it has for CUDA alone, by their formulas, for tests."""

from unittest import mock

import torch
from torch import Tensor
from torch.nn import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel


def _channels(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(1)


def _along(v: Tensor, x: Tensor) -> Tensor:
    return v.view(-1, *[1] * (x.ndim - 2))


def batch_norm_stats(input: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(_channels(input), 1, correction=0)
    return mean, (var + eps).rsqrt()


def batch_norm_gather_stats_with_counts(
    input: Tensor,
    mean: Tensor,
    invstd: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    share = (counts / counts.sum())[:, None]
    whole = (share * mean).sum(0)
    var = (share * (invstd**-2 - eps + (mean - whole) ** 2)).sum(0)
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(whole, momentum)
        running_var.lerp_(var * counts.sum() / (counts.sum() - 1), momentum)
    return whole, (var + eps).rsqrt()


def batch_norm_elemt(input: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, invstd: Tensor, eps: float) -> Tensor:
    return (input - _along(mean, input)) * _along(invstd * weight, input) + _along(bias, input)


def batch_norm_backward_reduce(
    grad_out: Tensor,
    input: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor,
    input_g: bool,
    weight_g: bool,
    bias_g: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sum_dy = _channels(grad_out).sum(1)
    sum_dy_xmu = _channels(grad_out * (input - _along(mean, input))).sum(1)
    return sum_dy, sum_dy_xmu, sum_dy_xmu * invstd, sum_dy.clone()


def batch_norm_backward_elemt(
    grad_out: Tensor,
    input: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor,
    sum_dy: Tensor,
    sum_dy_xmu: Tensor,
    count: Tensor,
) -> Tensor:
    total = count.sum()
    slope = _along(sum_dy_xmu * invstd**2 / total, input) * (input - _along(mean, input))
    return (grad_out - _along(sum_dy / total, input) - slope) * _along(invstd * weight, input)


def install() -> torch.library.Library:
    """In a child process: PyTorch's checks of the device are off for good, the operators go with what is returned."""
    library = torch.library.Library("aten", "IMPL")
    for operator in (
        batch_norm_stats,
        batch_norm_gather_stats_with_counts,
        batch_norm_elemt,
        batch_norm_backward_reduce,
        batch_norm_backward_elemt,
    ):
        library.impl(operator.__name__, operator, "CPU")
    forward = SyncBatchNorm.forward

    def on_cpu(self: SyncBatchNorm, x: Tensor) -> Tensor:
        with mock.patch("torch._C._get_privateuse1_backend_name", return_value="cpu"):
            return forward(self, x)

    SyncBatchNorm.forward = on_cpu
    DistributedDataParallel._passing_sync_batchnorm_handle = lambda *_: None  # refuses CPUs
    return library
