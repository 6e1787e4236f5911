"""`second_order_pool` does covariance, Newton-Schulz square root and upper triangle in one operation.

It gives the same numbers as `triu_vectorize(newton_schulz_sqrt(covariance_pool(x)))`, faster. On a CPU one small slice
of the batch after the other goes through all steps while it is in the cache. On a GPU there is a Triton kernel for D up
to 128, used where it has proved faster; for its backward pass it keeps only the features, and computes the rest again.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from gmsop.errors import ConfigError
from gmsop.ops import kernels
from gmsop.ops.observers import is_decomposed, is_plain_inference, is_tracing
from gmsop.ops.precision import at_least_float32, no_autocast, product_precision
from gmsop.ops.second_order.covariance import covariance_backward, covariance_forward, covariance_pool
from gmsop.ops.second_order.matrix_sqrt import (
    iterations,
    iterations_backward,
    newton_schulz_sqrt,
    normalise_,
    not_zero,
    through_trace_,
)
from gmsop.ops.second_order.three_iterations import three_iterations, three_iterations_backward
from gmsop.ops.second_order.triu import full_positions, triu_positions, triu_size, triu_vectorize


def second_order_pool(x: Tensor, num_iters: int = 3) -> Tensor:
    """Return the upper triangle of the approximate square root of the covariance of `x` over its positions.

    Args:
        x: features, (B, D, H, W) in any memory format, or (B, D, M).
        num_iters: Newton-Schulz iterations T, at least 1.

    Returns:
        (B, V), V = D (D + 1) / 2; float32 for half-precision input, else the dtype of `x`.

    Raises:
        ConfigError: as `covariance_pool` and `newton_schulz_sqrt`.

    Source: GM-SOP (NeurIPS 2018), equation 4.
    """
    if is_decomposed(x):
        return triu_vectorize(newton_schulz_sqrt(covariance_pool(x), num_iters))
    if x.dim() not in (3, 4) or not x.is_floating_point() or x.shape[1:].numel() == 0:
        raise ConfigError(
            f"second_order_pool: expected floating-point features (B, D, H, W) or (B, D, M) with at least one channel "
            f"and position, got {x.dtype} of shape {tuple(x.shape)}"
        )
    if num_iters < 1:
        raise ConfigError(f"second_order_pool: num_iters must be at least 1, got {num_iters}")
    keep = (x.requires_grad and torch.is_grad_enabled()) or is_tracing()  # what is traced may be trained later
    x = x.flatten(2)
    by_kernel = x.device.type in kernels.DEVICE_TYPES and choose_kernel(x, num_iters, keep)
    if not keep and not by_kernel and is_plain_inference(x):
        with no_autocast(x):
            return _forward(x, num_iters, keep)[0]
    return _second_order_pool(x, num_iters, keep, by_kernel)[0]


@torch.library.custom_op("gmsop::second_order_pool", mutates_args=())
def _second_order_pool(x: Tensor, num_iters: int, keep: bool, by_kernel: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (out, kept, traces, means); the last three are what the backward pass needs.

    `kept` holds A, and for three iterations M and Q, (1 or 3, B, D, D); `traces` is (B, 1), `means` (B, D, 1). They
    are empty, (0, ...), without `keep`, and for the kernel, which computes them again.
    """
    with no_autocast(x):
        if by_kernel:
            run = partial(_forward_by_kernel, x, num_iters)
            if (found := kernels.attempt("second_order_forward", product_precision(), run, x)) is not None:
                return found, *_room_to_keep(x, num_iters, False)
            keep = False  # as the fake below says, which cannot know that the kernel fails
        return _forward(x, num_iters, keep)


@_second_order_pool.register_fake
def _(x: Tensor, num_iters: int, keep: bool, by_kernel: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _room(x, num_iters, keep and not by_kernel)


@torch.library.custom_op("gmsop::second_order_pool_backward", mutates_args=())
def _second_order_pool_backward(
    x: Tensor, out: Tensor, kept: Tensor, traces: Tensor, means: Tensor, grad: Tensor, num_iters: int, by_kernel: bool
) -> Tensor:
    with no_autocast(x):
        if by_kernel:
            run = partial(_backward_by_kernel, x, grad, num_iters)
            if (found := kernels.attempt("second_order_backward", product_precision(), run, x)) is not None:
                return found
            out, kept, traces, means = _forward(x, num_iters, True)
        return _backward(x, out, kept, traces, means, grad, num_iters)


@_second_order_pool_backward.register_fake
def _(
    x: Tensor, out: Tensor, kept: Tensor, traces: Tensor, means: Tensor, grad: Tensor, num_iters: int, by_kernel: bool
) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(
    ctx: Any, inputs: tuple[Tensor, int, bool, bool], output: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    x, ctx.num_iters, _, ctx.by_kernel = inputs
    out, kept, traces, means = output
    ctx.save_for_backward(x, traces if ctx.by_kernel else out, kept, traces, means)
    ctx.set_materialize_grads(False)  # else zeros would be written as the gradient of what was kept


def _gradients(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, None, None, None]:
    if grad is None:
        return None, None, None, None
    return _second_order_pool_backward(*ctx.saved_tensors, grad, ctx.num_iters, ctx.by_kernel), None, None, None


_second_order_pool.register_autograd(_gradients, setup_context=_setup_context)


def _room(x: Tensor, num_iters: int, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out = x.new_empty(x.shape[0], triu_size(x.shape[1]), dtype=torch.promote_types(x.dtype, torch.float32))
    return out, *_room_to_keep(x, num_iters, keep)


def _room_to_keep(x: Tensor, num_iters: int, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, dim, _ = x.shape
    matrices = (3 if num_iters == 3 else 1) if keep else 0
    length = batch if keep else 0
    empty = partial(x.new_empty, dtype=torch.promote_types(x.dtype, torch.float32))
    return empty((matrices, batch, dim, dim)), empty((length, 1)), empty((length, dim, 1))


def _forward(x: Tensor, num_iters: int, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out, kept, traces, means = _room(x, num_iters, keep)
    dim, device = x.shape[1], x.device
    where = _tables(dim)[0] if device.type == "cpu" else triu_positions(dim, device)
    for part, centred, spare in _parts(x):
        matrices = kept[:, part] if keep else spare[:3]
        a, m_and_q = matrices[0], matrices[1:]
        wide = at_least_float32(x[part])
        mean = wide.mean(2, keepdim=True)
        covariance_forward(torch.sub(wide, mean, out=centred), a)
        trace = normalise_(a)
        y = three_iterations(a, m_and_q, spare[3:]) if num_iters == 3 else iterations(a, num_iters)
        torch.gather(y.flatten(1), 1, where.expand(len(y), -1), out=out[part]).mul_(trace.sqrt())
        if keep:
            traces[part], means[part] = trace, mean
    return out, kept, traces, means


def _backward(
    x: Tensor, out: Tensor, kept: Tensor, traces: Tensor, means: Tensor, grad: Tensor, num_iters: int
) -> Tensor:
    of_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    dim, device = x.shape[1], x.device
    where = _tables(dim)[1] if device.type == "cpu" else full_positions(dim, device)
    scale = 0.5 * not_zero(traces).rsqrt()
    dots = torch.linalg.vecdot(grad, out) / not_zero(traces)[:, 0]
    for part, centred, spare in _parts(x):
        # G is the symmetric matrix with <G, Y> = <grad, triangle of Y> / sqrt(trace) for every symmetric Y.
        g = spare[0]
        torch.gather(grad[part] * scale[part], 1, where.expand(len(g), -1), out=g.flatten(1))
        g.diagonal(dim1=1, dim2=2).mul_(2)
        a = kept[0, part]
        if num_iters == 3:
            d, g_dot_root = three_iterations_backward(a, kept[1:, part], g, spare[1:]), dots[part]
        else:
            d, g_dot_root = iterations_backward(a, g, num_iters)
        through_trace_(d, g_dot_root, a)
        torch.sub(at_least_float32(x[part]), means[part], out=centred)
        if of_x.dtype == centred.dtype:
            covariance_backward(centred, d, of_x[part])
        else:
            of_x[part] = covariance_backward(centred, d, torch.empty_like(centred))
    return of_x


@lru_cache(8)
def _tables(dim: int) -> tuple[Tensor, Tensor]:
    """Return `triu_positions` and `full_positions` for a CPU, from a cache.

    Building them takes as long as pooling an image. Use this only inside the operators, where tensors are never traced.
    """
    return triu_positions(dim, torch.device("cpu")), full_positions(dim, torch.device("cpu"))


def _forward_by_kernel(x: Tensor, num_iters: int) -> Tensor:
    from gmsop.ops.second_order.triton_pooling import second_order_forward

    return second_order_forward(x, num_iters, product_precision())


def _backward_by_kernel(x: Tensor, grad: Tensor, num_iters: int) -> Tensor:
    from gmsop.ops.second_order.triton_pooling import second_order_backward

    return second_order_backward(x, grad, num_iters, product_precision())


@torch.compiler.assume_constant_result
def _known(device: torch.device, dtype: torch.dtype, dim: int, num_iters: int, keep: bool) -> bool:
    """Whether compiled code, which runs for any number of images, uses the kernel."""
    if dtype == torch.float64:
        return False
    calls = (
        _call((1 << images, dim, 1 << positions, num_iters), keep, dtype)
        for images in range(20)
        for positions in range(16)
    )
    return kernels.known_for_all(calls, device)


def _call(sizes: tuple[int, int, int, int], keep: bool, dtype: torch.dtype) -> kernels.Call:
    return kernels.Call(
        "second_order_pool with gradient" if keep else "second_order_pool",
        dict(zip(("images", "channels", "positions", "iterations"), sizes, strict=True)),
        dtype,
        product_precision(),
    )


def choose_kernel(x: Tensor, num_iters: int, keep: bool) -> bool:
    """Return whether the kernel pools `x`, (B, D, M), and gives its gradient if `keep`."""
    batch, dim, positions = x.shape
    if dim > MAX_KERNEL_DIM:
        return False
    if torch.compiler.is_compiling():
        return _known(x.device, x.dtype, int(dim), num_iters, keep)
    plain = x.detach()

    def results(by_kernel: bool) -> list[Tensor]:
        with no_autocast(plain), torch.cuda.device_of(plain):
            if by_kernel:
                out = _forward_by_kernel(plain, num_iters)
                return [out, _backward_by_kernel(plain, _weights(out), num_iters)] if keep else [out]
            out, kept, traces, means = _forward(plain, num_iters, keep)
            return [out, _backward(plain, out, kept, traces, means, _weights(out), num_iters)] if keep else [out]

    sizes = (kernels.roughly(batch), dim, kernels.roughly(positions), num_iters)
    return kernels.choose(_call(sizes, keep, x.dtype), x, results)


def _weights(out: Tensor) -> Tensor:
    """Return a gradient to try the backward pass with: no two neighbours alike, and nothing drawn at random."""
    return torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).mul_(97).sin_().view_as(out)


def _parts(x: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield slices of the batch, each with room for its centred features and for six matrices per image.

    On a CPU a slice is so small that the cache holds what is computed of it; on other devices it is the whole batch.
    All slices use the same room, one after the other.
    """
    batch, dim, positions = x.shape
    size = batch if x.device.type != "cpu" else min(batch, max(1, CACHED_BYTES // (dim**2 * 4)))
    centred = x.new_empty(size, dim, positions, dtype=torch.promote_types(x.dtype, torch.float32))
    spare = centred.new_empty(6, size, dim, dim)
    for start in range(0, batch, size or 1):
        length = min(size, batch - start)
        yield slice(start, start + length), centred[:length], spare[:, :length]


MAX_KERNEL_DIM = 128
"""Channels that the Triton kernel is written for, at most."""

CACHED_BYTES = 1 << 19
"""Bytes of a slice, counting one matrix per image: half a MiB was best of 128 KiB to 2 MiB (docs/results/log.md)."""


@register_flop_formula(torch.ops.gmsop.second_order_pool)
def _flops(x: Sequence[int], num_iters: int, *_: Any, **__: Any) -> int:
    """Count the iteration as it is written; a shorter way to the same numbers does not change a model's count."""
    batch, dim, positions = x
    return 2 * batch * dim**2 * (positions + dim * max(1, 3 * num_iters - 3))
