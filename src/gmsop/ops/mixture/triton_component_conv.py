"""These kernels compute 1x1 convolutions with ReLU, each pair with its component's weight, without a copy per pair.

A pair p is an image p // K and one of its K components. Features are (B, C, M), weights (N, O, C), pairs (B*K, O, M).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmsop.ops.triton_matrices import dot


def component_conv_forward(x: Tensor, weight: Tensor, chosen: Tensor, precision: str) -> Tensor:
    """Return relu(weight[chosen[p]] @ x[p // K]) for every pair p, (B*K, O, M), in the dtype of `x` (of any strides).

    `precision` matters for float32 features only: "tf32x3", "tf32" or "bf16".
    """
    images, channels, positions = x.shape
    pairs, features = chosen.numel(), weight.shape[1]
    out = x.new_empty(pairs, features, positions)
    if out.numel():
        rows, columns = _tile(features), _tile(positions)
        grid = (pairs, triton.cdiv(features, rows), triton.cdiv(positions, columns))
        _forward_kernel[grid](
            x, weight, chosen.contiguous(), out, pairs // images, features, channels, positions, *x.stride(), BO=rows,
            BM=columns, BK=32, PRECISION=precision, num_warps=_warps(rows, columns), num_stages=3,
        )  # fmt: skip
    return out


def component_conv_backward_input(
    grad: Tensor, out: Tensor, weight: Tensor, chosen: Tensor, images: int, precision: str
) -> Tensor:
    """Return the gradient with respect to the features, (B, C, M): summed over the K pairs of each image."""
    pairs, features, positions = out.shape
    channels = weight.shape[2]
    result = out.new_empty(images, channels, positions)
    if result.numel():
        rows, columns = _tile(channels), _tile(positions)
        grid = (images, triton.cdiv(channels, rows), triton.cdiv(positions, columns))
        _backward_input_kernel[grid](
            grad, out, weight, chosen.contiguous(), result, pairs // images, features, channels, positions,
            *grad.stride(), BC=rows, BM=columns, BK=32, PRECISION=precision, num_warps=_warps(rows, columns),
            num_stages=2,
        )  # fmt: skip
    return result


def component_conv_backward_weight(
    grad: Tensor, out: Tensor, x: Tensor, chosen: Tensor, components: int, precision: str
) -> Tensor:
    """Return the gradient with respect to the weights, (N, O, C) in float32; zero if no image chose the component."""
    pairs, features, positions = out.shape
    images, channels = x.shape[:2]
    result = out.new_empty(components, features, channels, dtype=torch.float32)
    if result.numel():
        order = chosen.argsort(stable=True)
        bounds = torch.searchsorted(chosen[order], torch.arange(components + 1, device=chosen.device))
        rows, columns = _tile(features, 64), _tile(channels, 64)
        grid = (components, triton.cdiv(features, rows), triton.cdiv(channels, columns))
        _backward_weight_kernel[grid](
            grad, out, x, order, bounds, result, pairs // max(images, 1), features, channels, positions, *grad.stride(),
            *x.stride(), BO=rows, BC=columns, BK=32, PRECISION=precision, num_warps=4, num_stages=2,
        )  # fmt: skip
    return result


def _tile(size: int, most: int = 128) -> int:
    return min(most, max(16, triton.next_power_of_2(size)))


def _warps(rows: int, columns: int) -> int:
    return 8 if rows * columns > 64 * 128 else 4


@triton.jit
def _forward_kernel(
    x, weight, chosen, out, top_k, features, channels, positions, sx, sc, sm, BO: tl.constexpr, BM: tl.constexpr,
    BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64)
    component = tl.load(chosen + pair)
    row = tl.program_id(1) * BO + tl.arange(0, BO)[:, None]
    column = tl.program_id(2) * BM + tl.arange(0, BM)[None, :]
    x += pair // top_k * sx
    weight += component * features * channels
    total = tl.zeros((BO, BM), tl.float32)
    for start in range(0, channels, BK):
        across, down = start + tl.arange(0, BK)[None, :], start + tl.arange(0, BK)[:, None]
        left = tl.load(weight + row * channels + across, (row < features) & (across < channels), 0.0)
        right = tl.load(x + down * sc + column * sm, (down < channels) & (column < positions), 0.0)
        total = dot(left, right, total, PRECISION)
    target = out + pair * features * positions + row * positions + column
    # Not a maximum, which would turn NaN into 0.
    result = tl.where(total < 0, 0.0, total).to(out.dtype.element_ty)
    tl.store(target, result, (row < features) & (column < positions))


@triton.jit
def _backward_input_kernel(
    grad, out, weight, chosen, result, top_k, features, channels, positions, gp, go, gm, BC: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * BC + tl.arange(0, BC)[:, None]
    column = tl.program_id(2) * BM + tl.arange(0, BM)[None, :]
    total = tl.zeros((BC, BM), tl.float32)
    for pair in range(image * top_k, (image + 1) * top_k):
        component = tl.load(chosen + pair)
        for start in range(0, features, BK):
            across, down = start + tl.arange(0, BK)[None, :], start + tl.arange(0, BK)[:, None]
            source = weight + component * features * channels + across * channels + row
            left = tl.load(source, (row < channels) & (across < features), 0.0)
            inside = (down < features) & (column < positions)
            right = _masked(grad, out, pair, down, column, inside, features, positions, gp, go, gm)
            total = dot(left, right, total, PRECISION)
    target = result + image * channels * positions + row * positions + column
    tl.store(target, total.to(result.dtype.element_ty), (row < channels) & (column < positions))


@triton.jit
def _backward_weight_kernel(
    grad, out, x, order, bounds, result, top_k, features, channels, positions, gp, go, gm, sx, sc, sm,
    BO: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    component = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * BO + tl.arange(0, BO)[:, None]
    column = tl.program_id(2) * BC + tl.arange(0, BC)[None, :]
    total = tl.zeros((BO, BC), tl.float32)
    for place in range(tl.load(bounds + component), tl.load(bounds + component + 1)):
        pair = tl.load(order + place)
        for start in range(0, positions, BK):
            across, down = start + tl.arange(0, BK)[None, :], start + tl.arange(0, BK)[:, None]
            inside = (row < features) & (across < positions)
            left = _masked(grad, out, pair, row, across, inside, features, positions, gp, go, gm)
            source = x + pair // top_k * sx + column * sc + down * sm
            right = tl.load(source, (column < channels) & (down < positions), 0.0)
            total = dot(left, right, total, PRECISION)
    target = result + component * features * channels + row * channels + column
    tl.store(target, total, (row < features) & (column < channels))


@triton.jit
def _masked(grad, out, pair, feature, position, inside, features, positions, gp, go, gm):
    """Load the gradient of a pair; zero where the ReLU let nothing through."""
    g = tl.load(grad + pair * gp + feature * go + position * gm, inside, 0.0)
    y = tl.load(out + pair * features * positions + feature * positions + position, inside, 0.0)
    return tl.where(y <= 0, 0.0, g).to(y.dtype)
