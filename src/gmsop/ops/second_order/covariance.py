"""Covariance pooling turns features (B, D, M) into covariances (B, D, D) over the M positions."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gmsop.errors import ConfigError
from gmsop.ops.observers import is_transformed
from gmsop.ops.precision import at_least_float32, no_autocast


def covariance_pool(x: Tensor) -> Tensor:
    """Return the covariance of the channels over the positions, `Sigma = 1/M sum_m (x_m - mean)(x_m - mean)^T`.

    It is the biased one (divided by M, not M - 1), as in the official code. The mean is subtracted from the features;
    no M x M centring matrix is formed. The backward pass keeps only `x` and needs one matrix product.

    Args:
        x: features, (B, D, H, W) in any memory format, or (B, D, M).

    Returns:
        (B, D, D), symmetric; float32 for half-precision input, else the dtype of `x`. A constant map gives zeros.

    Raises:
        ConfigError: `x` is not a floating-point tensor of three or four axes, or has no position.

    Source: GM-SOP (NeurIPS 2018), section 2; Li et al., iSQRT-COV (CVPR 2018), section 3.
    """
    if x.dim() not in (3, 4) or not x.is_floating_point():
        raise ConfigError(
            f"covariance_pool: expected floating-point features (B, D, H, W) or (B, D, M), "
            f"got {x.dtype} of shape {tuple(x.shape)}"
        )
    x = x.flatten(2)
    if x.shape[2] == 0:
        raise ConfigError(f"covariance_pool: there is no position to pool over in shape {tuple(x.shape)}")
    with no_autocast(x):
        x = at_least_float32(x)
        return _covariance(x) if is_transformed() else _CovariancePool.apply(x)


def covariance_forward(centred: Tensor, out: Tensor) -> Tensor:
    """Return the covariances, (B, D, D), of features (B, D, M) without their mean; they are written to `out`."""
    return torch.baddbmm(out, centred, centred.mT, beta=0, alpha=1 / centred.shape[2], out=out)


def covariance_backward(centred: Tensor, grad: Tensor, out: Tensor) -> Tensor:
    """Return dL/dx = 2 G C / M, its mean over the positions removed; it is written to `out`.

    C are the features without their mean, G is `grad`, symmetric. In exact arithmetic the rows of C, and so of the
    result, sum to zero. In float32 the mean is rounded. Where it is far larger than the spread, the error in it would
    add up over the positions.
    """
    torch.baddbmm(out, grad, centred, beta=0, alpha=2 / centred.shape[2], out=out)
    return out.sub_(out.mean(2, keepdim=True))


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(2, keepdim=True)


def _covariance(x: Tensor) -> Tensor:
    """Compute the covariances by functions that `torch.func` can transform: none in place, none with an `out`."""
    centred = _centred(x)
    # No `out`: if an autograd.Function changes its own output, torch.compile of PyTorch 2.11 loses the gradient.
    return torch.bmm(centred, centred.mT) / x.shape[2]


class _CovariancePool(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _covariance(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        with no_autocast(x):
            return covariance_backward(_centred(x), torch.lerp(grad, grad.mT, 0.5), torch.empty_like(x))
