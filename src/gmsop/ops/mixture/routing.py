"""Routing: `dispatch` sends each image to its K components, `combine` adds up what comes back.

Axes: B images, N components, K = top_k. A pair is one (image, chosen component); there are B*K of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmsop.ops.precision import no_autocast


class Plan(NamedTuple):
    """Who goes where: pairs sorted by component."""

    images: tuple[Tensor, ...]
    """For each of the N components, the indices of the images that chose it, ascending."""
    rank: Tensor
    """(B*K,): where pair b*K + k stands in the sorted order."""


def plan_dispatch(indices: Tensor, num_components: int) -> Plan:
    """Sort the pairs of `indices` (B, K) by component. Reads the number of images per component on the host.

    On the meta device, which knows shapes only, the pairs are taken to be spread evenly: the cost is the same.
    """
    chosen = indices.flatten()
    order = chosen.argsort(stable=True)
    if chosen.is_meta:
        counts = [len(part) for part in np.array_split(np.empty(len(chosen)), num_components)]
    else:
        counts = torch.bincount(chosen, minlength=num_components).tolist()
    return Plan((order // indices.shape[1]).split(counts), order.argsort())


def dispatch(x: Tensor, plan: Plan) -> list[Tensor]:
    """The images of `x` (B, ...) that each component asked for: N tensors, (images of that component, ...)."""
    return [x.index_select(0, images) for images in plan.images]


def combine(outputs: Sequence[Tensor], gates: Tensor, plan: Plan) -> Tensor:
    """Gate-weighted sum over the chosen components.

    Args:
        outputs: for each component that got images (or for each component, empty ones included), its (n, V).
        gates: (B, K).
        plan: as used for `dispatch`.

    Returns:
        (B, V).

    Source: GM-SOP (NeurIPS 2018), equation 1.
    """
    return weighted_sum(torch.cat(list(outputs)).index_select(0, plan.rank), gates)


def weighted_sum(pairs: Tensor, gates: Tensor) -> Tensor:
    """Sum of each image's K vectors by its weights: pairs (B*K, V), gates (B, K), to (B, V)."""
    with no_autocast(gates):
        dtype = torch.promote_types(pairs.dtype, gates.dtype)
        return torch.bmm(gates.to(dtype).unsqueeze(1), pairs.to(dtype).unflatten(0, gates.shape)).squeeze(1)
