"""`EpochTotals` sums over an epoch's training images on all ranks; a run resumed in mid-epoch goes on with the sums."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from gmsop.nn import Routing


class EpochTotals(Metric):
    """Sum the loss, the errors and what the gate does over the images of an epoch.

    Args:
        num_components: the gate's; 0 without one.
    """

    full_state_update = False
    images: Tensor
    passes: Tensor
    loss: Tensor
    errors: Tensor
    skipped: Tensor
    balance: Tensor
    entropy: Tensor
    weight: Tensor
    chosen: Tensor

    def __init__(self, num_components: int = 0) -> None:
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self.num_components = num_components
        for name in ("images", "passes", "errors", "skipped"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        for name in ("loss", "balance", "entropy"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros(num_components), dist_reduce_fx="sum")
        self.add_state("chosen", torch.zeros(num_components, dtype=torch.long), dist_reduce_fx="sum")

    def update(
        self, loss: Tensor, logits: Tensor, labels: Tensor, routing: Routing | None, balance: Tensor | None
    ) -> None:
        """Add a pass: mean cross-entropy, logits (b, classes), labels (b,), the gate's decisions, the balance loss."""
        count = len(labels)
        self.images += count
        self.passes += 1
        self.loss += count * loss.float()
        self.errors += (logits.argmax(1) != labels).sum()
        if routing is not None and balance is not None:
            gates = routing.gates.float()
            self.balance += balance.float()
            self.entropy -= torch.xlogy(gates, gates).sum()
            self.weight += routing.dense.float().sum(0)
            chosen = routing.indices.flatten()  # counted without `bincount`, for which a GPU would have to wait
            self.chosen.scatter_add_(0, chosen, torch.ones_like(chosen))

    def skip(self) -> None:
        """Count a pass whose loss is not finite."""
        self.skipped += 1

    def compute(self) -> dict[str, float]:
        """Return the means of this rank: see `epoch_means`."""
        return self.so_far()

    def so_far(self) -> dict[str, float]:
        """Return what `compute` does, without torchmetrics' warning when nothing was counted yet."""
        return epoch_means({name: getattr(self, name)[None] for name in self.metric_state})

    def gather(self) -> dict[str, Tensor]:
        """Return the sums of all ranks, (ranks, ...) each. Every rank must call it."""
        several = torch.distributed.is_initialized()
        own = {name: getattr(self, name).detach() for name in self.metric_state}
        return {n: torch.stack(gather_all_tensors(v) if several else [v]).cpu() for n, v in own.items()}

    def load(self, gathered: dict[str, Tensor], rank: int, ranks: int) -> None:
        """Go on with the sums that `gather` returned.

        If there are as many ranks as then, each takes its own sums. Otherwise rank 0 takes the total, and the others
        start from zero.
        """
        for name, values in gathered.items():
            if len(values) == ranks:
                mine = values[rank]
            else:
                mine = values.sum(0, dtype=values.dtype) if rank == 0 else torch.zeros_like(values[0])
            setattr(self, name, mine.to(self.device))


def epoch_means(gathered: dict[str, Tensor]) -> dict[str, float]:
    """Return the means over all ranks by their names in `metrics.csv`; errors in percent, entropies in nats."""
    sums = {name: values.sum(0) for name, values in gathered.items()}
    images, passes = int(sums["images"]) or math.nan, int(sums["passes"]) or math.nan  # all may be skipped passes
    values = {"train/loss": float(sums["loss"]) / images, "train/top1_error": 100 * int(sums["errors"]) / images}
    if int(sums["skipped"]):
        values["train/skipped_passes"] = float(sums["skipped"])
    if len(sums["weight"]):
        share = sums["weight"] / sums["weight"].sum().clamp_min(1e-30)
        values |= {
            "train/balance_loss": float(sums["balance"]) / passes,
            "gate/entropy": float(sums["entropy"]) / images,
            "gate/load_entropy": float(-torch.xlogy(share, share).sum()),
            "gate/dead_components": float((sums["chosen"] == 0).sum()),
            **{f"gate/load_{i}": float(load) for i, load in enumerate(share)},
        }
    return values
