"""Which images, in which order: a permutation per epoch, shared out among ranks, that can be entered anywhere."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """Indices 0 to `length` - 1 in an order drawn from seed and epoch alone.

    Every rank gets the same number of them, and no two ranks the same one: what cannot be shared out evenly, fewer
    than there are ranks, waits for another epoch.

    Args:
        num_replicas: ranks.
        rank: which of them this is.
    """

    def __init__(self, length: int, seed: int, num_replicas: int = 1, rank: int = 0) -> None:
        self.length, self.seed, self.num_replicas, self.rank = length, seed, num_replicas, rank
        self.epoch, self.start = 0, 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Before each epoch; Lightning calls it. `start`: how many of this rank's indices to pass over, once."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.length // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.length, generator=generator)[self.rank :: self.num_replicas][: len(self)]
        start, self.start = self.start, 0
        yield from order[start:].tolist()
