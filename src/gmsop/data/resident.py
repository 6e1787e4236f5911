"""Keep the whole uint8 set on the device, where shuffling and flipping are whole-batch operations."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gmsop.data.packed import PackedDataset
from gmsop.data.sampler import EpochSampler, RankSampler
from gmsop.errors import ConfigError

BLOCK = 8192
"""Images copied to the device at a time."""
SHARE = 0.25
"""Share of the free device memory that `fits` grants a set; the rest is for the training."""


class ResidentLoader:
    """Yields the batches of `train_loader` and `val_loader`, the same images in the same order, already on `device`.

    Args:
        sampler: yields the indices; with `mirrored`, twice as many as there are images.
        mirrored: index n + i is image i (of n) flipped left to right.
        drop_single: leave out a last batch of one image, because BatchNorm needs more than one.
    """

    batch_sampler = None
    """Lightning looks for this attribute beside `sampler`."""

    def __init__(
        self,
        dataset: PackedDataset,
        batch_size: int,
        sampler: EpochSampler | RankSampler,
        device: torch.device,
        mirrored: bool = False,
        drop_single: bool = False,
    ) -> None:
        self.batch_size, self.sampler, self.mirrored, self.drop_single = batch_size, sampler, mirrored, drop_single
        self.images = torch.empty(dataset.images.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(dataset), BLOCK):  # all at once would fill the host's memory, once per process
            rows = slice(start, start + BLOCK)
            self.images[rows] = torch.from_numpy(np.array(dataset.images[rows]))
        self.labels = torch.from_numpy(np.array(dataset.labels)).to(device)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.sampler), self.batch_size)
        return whole + (rest > (1 if self.drop_single and whole else 0))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.tensor(list(self.sampler), dtype=torch.long, device=self.images.device)
        for indices in order.split(self.batch_size) if len(order) else ():
            if self.drop_single and len(indices) == 1 < min(self.batch_size, len(self.sampler)):
                return
            rows = indices % len(self.images)
            images = self.images.index_select(0, rows)
            if self.mirrored:
                flipped = (indices >= len(self.images))[:, None, None, None]
                images = torch.where(flipped, images.flip(2), images)
            yield images, self.labels[rows]


def fits(dataset: PackedDataset, device: torch.device) -> bool:
    """Return True if the set takes at most a quarter of the free memory of `device`; on a CPU always False.

    On a CPU the memory map already uses free memory, and shares it between all processes that read it.
    """
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return dataset.images.nbytes <= SHARE * free


def goes_resident(kind: str, dataset: PackedDataset, device: torch.device) -> bool:
    """Return True if the choice "auto", "memmap" or "resident" means resident for this set and device.

    Raises:
        ConfigError: `kind` is another word, or it is "resident" and the set is larger than the device's free memory.
    """
    if kind not in ("auto", "memmap", "resident"):
        raise ConfigError(f"a loader is auto, memmap or resident, got {kind!r}")
    if kind != "resident":
        return kind == "auto" and fits(dataset, device)
    if device.type == "cuda" and dataset.images.nbytes > torch.cuda.mem_get_info(device)[0]:
        raise ConfigError(f"loader: resident, but {dataset.path} does not fit in the memory of {device}; use memmap")
    return True
