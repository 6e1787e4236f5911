"""`dispatch` sends each image to its K components, `combine` adds up what comes back.

Axes: B images, N components, K = top_k. A pair is one (image, chosen component); there are B*K of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmsop.ops.precision import no_autocast


class Plan(NamedTuple):
    """A plan says which images go to which component, with the pairs sorted by component."""

    images: tuple[Tensor, ...]
    """For each of the N components, the indices of the images that chose it, ascending."""
    rank: Tensor
    """(B*K,): place of pair b*K + k in the sorted order."""


def plan_dispatch(indices: Tensor, num_components: int) -> Plan:
    """Sort the pairs of `indices` (B, K) by component.

    The host reads the number of images per component, for which it waits for a GPU. On the meta device, which knows
    shapes only, the pairs are taken to be spread evenly: the cost is the same.
    """
    chosen = indices.flatten()
    order = chosen.argsort(stable=True)
    if chosen.is_meta:
        counts = [len(part) for part in np.array_split(np.empty(len(chosen)), num_components)]
    else:
        counts = torch.bincount(chosen, minlength=num_components).tolist()
    return Plan((order // indices.shape[1]).split(counts), order.argsort())


def dispatch(x: Tensor, plan: Plan) -> list[Tensor]:
    """Return each component's images of `x` (B, ...): N tensors, (images that chose the component, ...)."""
    return [x.index_select(0, images) for images in plan.images]


def combine(outputs: Sequence[Tensor], gates: Tensor, plan: Plan) -> Tensor:
    """Return the gate-weighted sum over the chosen components.

    Args:
        outputs: one tensor (n, V) per component that got n images; those of components without images may be left out.
        gates: (B, K).
        plan: as used for `dispatch`.

    Returns:
        (B, V).

    Source: GM-SOP (NeurIPS 2018), equation 1.
    """
    return weighted_sum(torch.cat(list(outputs)).index_select(0, plan.rank), gates)


def weighted_sum(pairs: Tensor, gates: Tensor) -> Tensor:
    """Return each image's K vectors summed by its weights: pairs (B*K, V) and gates (B, K) to (B, V)."""
    with no_autocast(gates):
        dtype = torch.promote_types(pairs.dtype, gates.dtype)
        return torch.bmm(gates.to(dtype).unsqueeze(1), pairs.to(dtype).unflatten(0, gates.shape)).squeeze(1)
