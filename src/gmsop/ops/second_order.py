"""Second-order pooling as one operation: covariance, Newton-Schulz square root, upper triangle. (B, D, M) to (B, V).

The same numbers as `triu_vectorize(newton_schulz_sqrt(covariance_pool(x)))`, without what lies between ever being
whole in memory: on a CPU a few images at a time go through all of it while they are in the cache, on a GPU a Triton
kernel takes D up to 128 and keeps only the features for its backward pass, computing the rest again.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from gmsop import kernels
from gmsop.errors import ConfigError
from gmsop.ops.covariance import covariance_backward, covariance_forward, covariance_pool
from gmsop.ops.exporting import is_exporting
from gmsop.ops.matrix_sqrt import iterations, iterations_backward, newton_schulz_sqrt, normalise, rescale_gradient
from gmsop.ops.precision import at_least_float32, no_autocast, product_precision
from gmsop.ops.three_iterations import Kept, three_iterations, three_iterations_backward
from gmsop.ops.triu import full_positions, triu_positions, triu_size, triu_vectorize


def second_order_pool(x: Tensor, num_iters: int = 3) -> Tensor:
    """Upper triangle of the approximate square root of the covariance of `x` over its positions.

    Args:
        x: features, (B, D, H, W) in any memory format, or (B, D, M).
        num_iters: Newton-Schulz iterations T, at least 1.

    Returns:
        (B, V), V = D (D + 1) / 2; float32 for half-precision input, else the dtype of `x`.

    Raises:
        ConfigError: as `covariance_pool` and `newton_schulz_sqrt`.

    Source: GM-SOP (NeurIPS 2018), equation 4.
    """
    if is_exporting():  # the parts, which every exporter knows
        return triu_vectorize(newton_schulz_sqrt(covariance_pool(x), num_iters))
    if x.dim() not in (3, 4) or not x.is_floating_point() or x.shape[2:].numel() == 0:
        raise ConfigError(
            f"second_order_pool: expected floating-point features (B, D, H, W) or (B, D, M) with at least one "
            f"position, got {x.dtype} of shape {tuple(x.shape)}"
        )
    if num_iters < 1:
        raise ConfigError(f"second_order_pool: num_iters must be at least 1, got {num_iters}")
    keep = x.requires_grad and torch.is_grad_enabled()
    return _second_order_pool(x.flatten(2), num_iters, keep)[0]


@torch.library.custom_op("gmsop::second_order_pool", mutates_args=())
def _second_order_pool(x: Tensor, num_iters: int, keep: bool) -> tuple[Tensor, Tensor]:
    """The vectors, and what the backward pass wants kept besides `x`: (5, B, D, D), or (0, ...) for nothing."""
    out, kept = _shapes(x, num_iters, keep)
    with no_autocast(x):
        if _has_kernel(x):
            from gmsop.kernels.second_order import second_order_forward

            run = partial(second_order_forward, x, num_iters, product_precision())
            if (found := kernels.attempt("second_order_forward", run)) is not None:
                return found, kept
        where = triu_positions(x.shape[1], x.device)
        for part in _parts(x):
            y, root = _root(at_least_float32(x[part]), num_iters, kept[:, part])
            torch.gather(y.flatten(1), 1, where.expand(len(y), -1), out=out[part]).mul_(root[:, :, 0])
        return out, kept


@_second_order_pool.register_fake
def _(x: Tensor, num_iters: int, keep: bool) -> tuple[Tensor, Tensor]:
    return _shapes(x, num_iters, keep)


@torch.library.custom_op("gmsop::second_order_pool_backward", mutates_args=())
def _second_order_pool_backward(x: Tensor, kept: Tensor, grad: Tensor, num_iters: int) -> Tensor:
    with no_autocast(x):
        if _has_kernel(x):
            from gmsop.kernels.second_order import second_order_backward

            run = partial(second_order_backward, x, grad, num_iters, product_precision())
            if (found := kernels.attempt("second_order_backward", run)) is not None:
                return found
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        where = full_positions(x.shape[1], x.device)
        for part in _parts(x):
            # The symmetric G with <G, Y> = <grad, triangle of Y> for every symmetric Y.
            g = grad[part].to(torch.promote_types(x.dtype, torch.float32))
            g = g.gather(1, where.expand(len(g), -1))
            g = g.unflatten(1, (x.shape[1], x.shape[1])).mul_(0.5)
            g.diagonal(dim1=1, dim2=2).mul_(2)
            _root_backward(at_least_float32(x[part]), g, num_iters, kept[:, part], out[part])
        return out


@_second_order_pool_backward.register_fake
def _(x: Tensor, kept: Tensor, grad: Tensor, num_iters: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Tensor, int, bool], output: tuple[Tensor, Tensor]) -> None:
    x, ctx.num_iters, _ = inputs
    ctx.save_for_backward(x, output[1])
    ctx.set_materialize_grads(False)  # or the gradient of what was kept would be written out as zeros


def _gradients(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, None, None]:
    if grad is None:
        return None, None, None
    x, kept = ctx.saved_tensors
    return _second_order_pool_backward(x, kept, grad, ctx.num_iters), None, None


_second_order_pool.register_autograd(_gradients, setup_context=_setup_context)


def _shapes(x: Tensor, num_iters: int, keep: bool) -> tuple[Tensor, Tensor]:
    batch, dim, _ = x.shape
    dtype = torch.promote_types(x.dtype, torch.float32)
    matrices = 1 + len(Kept._fields) if keep and num_iters == 3 and not _has_kernel(x) else 0
    out = x.new_empty(batch, triu_size(dim), dtype=dtype)
    return out, x.new_empty(matrices, batch, dim, dim, dtype=dtype)


def _root(x: Tensor, num_iters: int, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Y_T of the normalised covariance, and the square root of its trace."""
    a, root, _ = normalise(covariance_forward(x, kept[0] if len(kept) else None))
    if num_iters == 3:
        return three_iterations(a, Kept(*(kept[1:] if len(kept) else a.new_empty(4, *a.shape)))), root
    return iterations(a, num_iters), root


def _root_backward(x: Tensor, g: Tensor, num_iters: int, kept: Tensor, out: Tensor) -> None:
    """Write dL/dx to `out`, for symmetric `g` = dL/d(sqrt(trace) Y_T)."""
    a, _, inverse_root = normalise(kept[0] if len(kept) else covariance_forward(x))
    if len(kept):
        d, g_dot_root = three_iterations_backward(a, Kept(*kept[1:]), g)
    else:
        d, g_dot_root = iterations_backward(a, g, num_iters)
    g = rescale_gradient(d, g_dot_root, a, inverse_root)
    if out.dtype == x.dtype:
        covariance_backward(x, g, out)
    else:
        out.copy_(covariance_backward(x, g))


def _has_kernel(x: Tensor) -> bool:
    if x.dtype == torch.float64 or not kernels.usable(x.device):
        return False
    from gmsop.kernels.second_order import MAX_DIM

    return x.shape[1] <= MAX_DIM


def _parts(x: Tensor) -> list[slice]:
    """The batch in parts so small that a CPU's cache holds their iterates. On other devices the batch."""
    size = max(1, CACHED_BYTES // (x.shape[1] ** 2 * 4) if x.device.type == "cpu" else len(x))
    return [slice(start, start + size) for start in range(0, len(x), size)]


CACHED_BYTES = 1 << 19
"""Of one matrix per image of a part: half a MiB was best of 128 KiB to 4 MiB (benchmarks/RESULTS.md)."""


@register_flop_formula(torch.ops.gmsop.second_order_pool)
def _flops(x: Sequence[int], num_iters: int, *_: Any, **__: Any) -> int:
    """The iteration as it is written; a shorter way to the same numbers does not change a model's count."""
    batch, dim, positions = x
    return 2 * batch * dim**2 * (positions + dim * max(1, 3 * num_iters - 3))
