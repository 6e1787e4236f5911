"""Load whole batches of images as uint8 tensors; they are converted to floats on the device."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gmsop.data.image_folder import FolderDataset
from gmsop.data.other_datasets import OtherDataset
from gmsop.data.packed import PackedDataset
from gmsop.data.photographs import Photographs
from gmsop.data.reading_processes import START, outlive_signals
from gmsop.data.resident import ResidentLoader, goes_resident
from gmsop.data.sampler import EpochSampler, RankSampler
from gmsop.data.stream_loader import StreamLoader, TrainingStreamLoader
from gmsop.data.streamed import Streamed
from gmsop.errors import DataError, DataWarning

Images = PackedDataset | FolderDataset | Photographs | OtherDataset
"""What serves batches of images: each has `path`, `split`, `class_names`, `labels` and `batch`."""
NAMED = 20
"""Images that cannot be read which are named; others are counted."""


class _Read(NamedTuple):
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    replaced: list[int]
    """Images that cannot be read, in whose place others stand."""


class _Batches(Dataset[Any]):
    """Reads a list of indices in one call. If `mirrored`, index n + i is image i (of n) flipped left to right.

    Indices above are those of later epochs: see `EpochSampler`.
    """

    def __init__(self, dataset: Images, mirrored: bool) -> None:
        self.dataset, self.mirrored = dataset, mirrored

    def __len__(self) -> int:
        return len(self.dataset) * (2 if self.mirrored else 1)

    def __getitem__(self, index: int) -> _Read | DataError:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> _Read | DataError:
        try:
            return self._read(np.asarray(indices))
        except DataError as error:
            return error

    def _read(self, rows: NDArray[np.int64]) -> _Read:
        epochs, rows = np.divmod(rows, len(self))
        flip, rows = np.divmod(rows, len(self.dataset))
        if isinstance(self.dataset, Photographs):
            images, labels = self.dataset.batch(rows, int(epochs[0]))
            replaced = self.dataset.replaced
        else:
            images, labels = self.dataset.batch(rows)
            replaced = []
        if self.mirrored:
            images[flip == 1] = images[flip == 1, :, ::-1]
        return _Read(images, labels, replaced)


def _to_tensors(batch: Any) -> tuple[Tensor, Tensor, list[int]] | DataError:
    if isinstance(batch, DataError):
        return batch
    return torch.from_numpy(batch.images), torch.from_numpy(batch.labels), batch.replaced


class _Loader(DataLoader[Any]):
    """Raises a worker process's `DataError` unchanged; PyTorch would raise one with a traceback as its text.

    Names the images that could not be read, and counts them in `replaced`.
    """

    replaced: set[int]

    def __iter__(self) -> Any:
        self.replaced = getattr(self, "replaced", set())
        for batch in super().__iter__():
            if isinstance(batch, DataError):
                raise batch
            images, labels, replaced = batch
            for row in replaced:
                self._name(row)
            yield images, labels

    def _name(self, row: int) -> None:
        if row in self.replaced:
            return
        self.replaced.add(row)
        if len(self.replaced) <= NAMED:
            batches: Any = self.dataset
            text = f"{batches.dataset.reason(row)}: passed over, another image takes its place"
            warnings.warn(text, DataWarning, stacklevel=2)


Loader = DataLoader[tuple[Tensor, Tensor]] | ResidentLoader | StreamLoader


def train_loader(
    dataset: PackedDataset | Photographs | Streamed,
    batch_size: int,
    seed: int,
    mirrored: bool = False,
    num_workers: int = 0,
    num_replicas: int = 1,
    rank: int = 0,
    kind: str = "memmap",
    device: torch.device | None = None,
) -> Loader:
    """Return a loader of shuffled batches: images (b, S, S, 3) uint8 and labels (b,).

    The order depends only on `seed` and the epoch (`loader.sampler.set_epoch`, which Lightning calls), so that a run
    can be continued at any epoch, or inside one (`loader.sampler.enter`). The last batch may be smaller. If it had a
    single image, it is left out of this epoch, because BatchNorm needs more than one.

    Args:
        mirrored: every epoch shows each image twice, once flipped left to right.
        kind: "memmap": images are read from the disk (or the system's cache of it) as needed. "resident": the whole set
            is kept in the memory of `device`, where batches are made. "auto": resident if the set takes at most a
            quarter of the free memory of a CUDA device. All give the same batches. Photographs are read as needed.
        device: the device that trains; used only for "resident" and "auto".

    Raises:
        ConfigError: `kind` is unknown, or it is "resident" and the set does not fit.
    """
    if isinstance(dataset, Streamed):
        assert not mirrored
        stream, transform = dataset.stream, dataset.transform
        return TrainingStreamLoader(stream, transform, batch_size, num_workers, seed, num_replicas, rank)
    numbered = isinstance(dataset, Photographs)  # what its transforms draw depends on the epoch
    sampler = EpochSampler(len(dataset) * (2 if mirrored else 1), seed, num_replicas, rank, numbered)
    device = device or torch.device("cpu")
    if isinstance(dataset, PackedDataset) and goes_resident(kind, dataset, device):
        return ResidentLoader(dataset, batch_size, sampler, device, mirrored, drop_single=True)
    return _Loader(
        _Batches(dataset, mirrored),
        batch_size,
        sampler=sampler,
        num_workers=num_workers,
        multiprocessing_context=START if num_workers else None,
        worker_init_fn=outlive_signals,
        collate_fn=_to_tensors,
        pin_memory=torch.cuda.is_available(),
        drop_last=len(sampler) % batch_size == 1 and len(sampler) > 1,
        generator=torch.Generator().manual_seed(seed),  # otherwise the loader would draw from the global one
        persistent_workers=num_workers > 0,
    )


def val_loader(
    dataset: Images | Streamed,
    batch_size: int,
    num_workers: int = 0,
    num_replicas: int = 1,
    rank: int = 0,
    kind: str = "memmap",
    device: torch.device | None = None,
) -> Loader:
    """Return a loader of all images in order, each once over all ranks: images (b, S, S, 3) uint8, labels (b,).

    `kind` and `device` mean what they mean in `train_loader`. The ranks' numbers of images may differ by one.
    """
    if isinstance(dataset, Streamed):
        return StreamLoader(dataset.stream, dataset.transform, batch_size, num_workers, None, num_replicas, rank)
    sampler = RankSampler(len(dataset), num_replicas, rank)
    device = device or torch.device("cpu")
    if isinstance(dataset, PackedDataset) and goes_resident(kind, dataset, device):
        return ResidentLoader(dataset, batch_size, sampler, device)
    return _Loader(
        _Batches(dataset, mirrored=False),
        batch_size,
        sampler=sampler,
        num_workers=num_workers,
        multiprocessing_context=START if num_workers else None,
        worker_init_fn=outlive_signals,
        collate_fn=_to_tensors,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )
