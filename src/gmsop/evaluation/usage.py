"""Count what a gate does, class by class."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from gmsop.nn import Routing


class Usage(NamedTuple):
    """Says how the images of each class were shared out among the N components."""

    weight: Tensor
    """(classes, N): sum of the gates."""
    chosen: Tensor
    """(classes, N), int64: how many images went there."""
    entropy: float
    """Entropy of an image's K gates, in nats, averaged over the images: 0 if one takes all, log K if all are equal."""

    @property
    def load(self) -> list[float]:
        """Return each component's share of all gate weight."""
        total = self.weight.sum(0)
        return (total / total.sum().clamp_min(1e-30)).tolist()

    @property
    def dead(self) -> list[int]:
        """Return the components that no image went to."""
        return (self.chosen.sum(0) == 0).nonzero().flatten().tolist()


class GateUsage(Metric):
    """Accumulates `Usage` over batches and ranks."""

    full_state_update = False
    weight: Tensor
    chosen: Tensor
    entropy: Tensor

    def __init__(self, num_classes: int, num_components: int) -> None:
        super().__init__()
        self.add_state("weight", torch.zeros(num_classes, num_components), dist_reduce_fx="sum")
        counts = torch.zeros(num_classes, num_components, dtype=torch.long)
        self.add_state("chosen", counts, dist_reduce_fx="sum")
        self.add_state("entropy", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, routing: Routing, labels: Tensor) -> None:
        """Add the gate's decisions on a batch with labels (b,)."""
        gates = routing.gates.float()
        place = labels[:, None].expand_as(routing.indices), routing.indices
        self.weight.index_put_(place, gates, accumulate=True)
        self.chosen.index_put_(place, torch.ones_like(routing.indices), accumulate=True)
        self.entropy -= torch.xlogy(gates, gates).sum()

    def compute(self) -> Usage:
        """Return the `Usage` of all batches so far."""
        images = max(1.0, float(self.weight.sum()))  # an image's gates sum to 1
        return Usage(self.weight.cpu(), self.chosen.cpu(), float(self.entropy) / images)
