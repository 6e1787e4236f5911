"""On a CPU `component_conv` takes one pair after the other through all layers, while the pair is in the cache.

Each product is written straight into its place: copies would cost more than larger products save. `layers` holds for
each layer the weights of its components. `outs` holds one tensor per layer: the forward pass writes the layer's result
there, and the backward pass reads it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def forward_on_cpu(
    x: Tensor, layers: Sequence[Sequence[Tensor]], numbers: Sequence[int], outs: Sequence[Tensor]
) -> None:
    """Fill `outs`. A hidden layer's tensor may have room for one pair only, which every pair then uses."""
    top_k, images, places = _pairs_per_image(numbers, x), x.unbind(), [out.unbind() for out in outs]
    used = _used(numbers, layers, x.dtype)
    for pair, n in enumerate(numbers):
        y = images[pair // top_k]
        for own, place in zip(used, places, strict=True):
            y = torch.mm(own[n], y, out=place[pair % len(place)]).relu_()


def backward_on_cpu(
    grad: Tensor,
    outs: Sequence[Tensor],
    x: Tensor,
    layers: Sequence[Sequence[Tensor]],
    numbers: Sequence[int],
    of_x: Tensor | None,
    of_weights: Sequence[Sequence[Tensor]] | None,
) -> None:
    """Fill those gradients that are wanted: `of_x`, (B, C, M), and `of_weights`, (O, C) each."""
    top_k, seen, used = _pairs_per_image(numbers, x), set(), _used(numbers, layers, x.dtype)
    for pair, n in enumerate(numbers):
        image, g = pair // top_k, grad[pair]
        for layer in reversed(range(len(outs))):
            g = torch.ops.aten.threshold_backward(g, outs[layer][pair], 0)
            if of_weights is not None:
                came_in = outs[layer - 1][pair] if layer else x[image]
                _add_product(of_weights[layer][n], g, came_in.mT, first=n not in seen)
            if layer:
                g = torch.mm(used[layer][n].mT, g)
        if of_x is not None:
            _add_product(of_x[image], used[0][n].mT, g, first=pair % top_k == 0)
        seen.add(n)
    for own in of_weights or ():
        for n in set(range(len(own))) - seen:
            own[n].zero_()


def _pairs_per_image(numbers: Sequence[int], x: Tensor) -> int:
    return len(numbers) // max(len(x), 1)


def _used(numbers: Sequence[int], layers: Sequence[Sequence[Tensor]], dtype: torch.dtype) -> list[dict[int, Tensor]]:
    """Return for each layer the weights, (O, C), of the components that some image chose."""
    return [{n: own[n].flatten(1).to(dtype) for n in set(numbers)} for own in layers]


def _add_product(out: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
    """Add A B to `out`; the `first` product overwrites it."""
    if first and out.dtype == a.dtype:
        torch.mm(a, b, out=out)
    elif first:
        out.copy_(torch.mm(a, b))
    elif out.dtype == a.dtype:
        out.addmm_(a, b)
    else:
        out += torch.mm(a, b)
