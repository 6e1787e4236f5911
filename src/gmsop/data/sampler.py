"""Choose which images come in which order: a permutation per epoch, shared by all ranks, entered anywhere."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """Yields the indices 0 to `length` - 1 in an order that depends only on seed and epoch.

    Every rank gets the same number of indices, and no index goes to two ranks. A rest that cannot be shared out evenly,
    fewer than there are ranks, is left out of this epoch. The ranks' n-th indices are neighbours in the common order,
    so that the images of a step are the same on any number of ranks.

    Args:
        num_replicas: number of ranks.
        rank: which of them this is.
        numbered: yield epoch * length + index, so that who reads the image knows the epoch.
    """

    def __init__(self, length: int, seed: int, num_replicas: int = 1, rank: int = 0, numbered: bool = False) -> None:
        self.length, self.seed, self.num_replicas, self.rank = length, seed, num_replicas, rank
        self.numbered = numbered
        self.epoch = 0
        self._entry = (-1, 0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next. Lightning calls this before each epoch."""
        self.epoch = epoch

    def enter(self, epoch: int, start: int) -> None:
        """Begin in `epoch` with this rank's index number `start`, a multiple of the loader's batch size.

        Other epochs are whole.
        """
        self.epoch, self._entry = epoch, (epoch, start)

    def indices(self, epoch: int) -> list[int]:
        """Return all of this rank's indices of an epoch, in order."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.randperm(self.length, generator=generator)[self.rank :: self.num_replicas]
        return order[: len(self)].tolist()

    def __len__(self) -> int:
        return self.length // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        epoch, start = self._entry
        first = self.epoch * self.length if self.numbered else 0
        for index in self.indices(self.epoch)[start if epoch == self.epoch else 0 :]:
            yield first + index


class RankSampler(Sampler[int]):
    """Yields every `num_replicas`-th index in order, from `rank` on: each index occurs once over all ranks."""

    def __init__(self, length: int, num_replicas: int = 1, rank: int = 0) -> None:
        self.share = range(rank, length, num_replicas)

    def __len__(self) -> int:
        return len(self.share)

    def __iter__(self) -> Iterator[int]:
        return iter(self.share)
