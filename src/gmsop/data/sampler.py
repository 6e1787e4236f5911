"""Which images, in which order: a permutation per epoch, shared out among ranks, that can be entered anywhere."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """Indices 0 to `length` - 1 in an order drawn from seed and epoch alone.

    Every rank gets the same number of them, and no two ranks the same one: what cannot be shared out evenly, fewer
    than there are ranks, waits for another epoch. The ranks' n-th indices are next to each other in the one order, so
    the images of a step are the same on any number of ranks.

    Args:
        num_replicas: ranks.
        rank: which of them this is.
    """

    def __init__(self, length: int, seed: int, num_replicas: int = 1, rank: int = 0) -> None:
        self.length, self.seed, self.num_replicas, self.rank = length, seed, num_replicas, rank
        self.epoch = 0
        self._entry = (-1, 0)

    def set_epoch(self, epoch: int) -> None:
        """Before each epoch; Lightning calls it."""
        self.epoch = epoch

    def enter(self, epoch: int, start: int) -> None:
        """Begin in `epoch`, and there with this rank's index number `start`, a multiple of the loader's batch size.

        Other epochs are whole.
        """
        self.epoch, self._entry = epoch, (epoch, start)

    def indices(self, epoch: int) -> list[int]:
        """All of this rank's indices of an epoch, in order."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.randperm(self.length, generator=generator)[self.rank :: self.num_replicas]
        return order[: len(self)].tolist()

    def __len__(self) -> int:
        return self.length // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        epoch, start = self._entry
        yield from self.indices(self.epoch)[start if epoch == self.epoch else 0 :]


class RankSampler(Sampler[int]):
    """Every `num_replicas`-th index in order, from `rank` on: each index once over all ranks, none twice."""

    def __init__(self, length: int, num_replicas: int = 1, rank: int = 0) -> None:
        self.share = range(rank, length, num_replicas)

    def __len__(self) -> int:
        return len(self.share)

    def __iter__(self) -> Iterator[int]:
        return iter(self.share)
