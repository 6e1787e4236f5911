"""Batches of a packed set: uint8 tensors, whole batches at a time; they become floats on the device."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from gmsop.data.packed import PackedDataset

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


class _Batches(Dataset[Any]):
    """Reads a list of indices in one NumPy call. With `mirrored`, index n + i is image i flipped left to right."""

    def __init__(self, dataset: PackedDataset, mirrored: bool) -> None:
        self.dataset, self.mirrored = dataset, mirrored

    def __len__(self) -> int:
        return len(self.dataset) * (2 if self.mirrored else 1)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        flip, rows = np.divmod(np.asarray(indices), len(self.dataset))
        images = self.dataset.images[rows]
        images[flip == 1] = images[flip == 1, :, ::-1]
        return images, self.dataset.labels[rows]


def _to_tensors(batch: Any) -> tuple[Tensor, Tensor]:
    images, labels = batch
    return torch.from_numpy(images), torch.from_numpy(labels)


def train_loader(
    dataset: PackedDataset,
    batch_size: int,
    seed: int,
    mirrored: bool = False,
    num_workers: int = 0,
    num_replicas: int = 1,
    rank: int = 0,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Shuffled batches: images (b, S, S, 3) uint8 and labels (b,).

    The order depends on `seed` and the epoch alone (`loader.sampler.set_epoch`, which Lightning calls): a run can be
    continued at any epoch. The last batch may be smaller; one image left over, of which BatchNorm can make no
    statistics, waits for another epoch.

    Args:
        mirrored: every epoch shows each image twice, once flipped left to right.
    """
    batches = _Batches(dataset, mirrored)
    sampler: DistributedSampler[Any] = DistributedSampler(batches, num_replicas, rank, shuffle=True, seed=seed)
    return DataLoader(
        batches,
        batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=_to_tensors,
        pin_memory=torch.cuda.is_available(),
        drop_last=len(sampler) % batch_size == 1 and len(sampler) > 1,
        generator=torch.Generator().manual_seed(seed),  # or the loader would draw from the global one
        persistent_workers=num_workers > 0,
    )


def val_loader(dataset: PackedDataset, batch_size: int, num_workers: int = 0) -> DataLoader[tuple[Tensor, Tensor]]:
    """All images once, in order: images (b, S, S, 3) uint8 and labels (b,)."""
    return DataLoader(
        _Batches(dataset, mirrored=False),
        batch_size,
        num_workers=num_workers,
        collate_fn=_to_tensors,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )
