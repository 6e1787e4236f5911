"""Load batches from a stream: from shards or over a network, where no image can be asked for by its number."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from gmsop.data.photographs import drawing_from
from gmsop.data.reading_processes import START, outlive_signals
from gmsop.data.timm_sources import Stream
from gmsop.data.transforms import Transform
from gmsop.errors import ConfigError, DataError


class StreamOrder:
    """Stands where other loaders have a sampler: a stream can be entered at the start of an epoch alone."""

    def __init__(self, length: int) -> None:
        self.length, self.epoch = length, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next. Lightning calls this before each epoch."""
        self.epoch = epoch

    def enter(self, epoch: int, start: int) -> None:
        """Begin in `epoch`.

        Raises:
            ConfigError: not at its start.
        """
        if start:
            raise ConfigError(
                "a stream can be gone on with between epochs only; the checkpoint is from within one: --resume a "
                "checkpoint between epochs, such as best.ckpt"
            )
        self.epoch = epoch

    def indices(self, epoch: int) -> list[int]:
        """Return no numbers: images of a stream have none."""
        return []

    def __len__(self) -> int:
        return self.length


class _Squares(IterableDataset[Any]):
    """Yields batches of a stream in a process that reads."""

    def __init__(
        self, stream: Stream, transform: Transform, batch_size: int, seed: int | None, rank: int, ranks: int
    ) -> None:
        self.stream, self.transform, self.batch_size = stream, transform, batch_size
        self.seed, self.rank, self.ranks = seed, rank, ranks
        self.epoch = 0
        self.most = 0
        """Batches of an epoch that a process reads; 0: until the stream ends."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor] | DataError]:
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        images: list[Any] = []
        labels: list[int] = []
        batches = 0
        try:
            for place, (image, label) in enumerate(self._share(workers)):
                if self.seed is None:
                    images.append(self.transform(image))
                else:
                    with drawing_from(self.seed, self.epoch, self.rank, worker, place):
                        images.append(self.transform(image))
                labels.append(label)
                if len(images) == self.batch_size:
                    yield torch.from_numpy(np.stack(images)), self._checked(labels)
                    images, labels, batches = [], [], batches + 1
                    if batches == self.most:
                        return
            if images and not self.most:
                yield torch.from_numpy(np.stack(images)), self._checked(labels)
            elif self.most:
                text = f"{batches} of {self.most} batches came from process {worker + 1} of {workers}: are there fewer "
                yield DataError(f"{self.stream.name}: {text}images or shards than it says?")
        except DataError as error:
            yield error

    def _share(self, workers: int) -> Iterator[Any]:
        stream = self.stream
        if self.seed is not None:
            return stream.iterate(self.epoch, self.seed, (self.rank, self.ranks), workers, shuffle=True)
        # timm's readers would give some images to two ranks, and some to none: here every rank reads all of them.
        return islice(stream.iterate(0, 0, (0, 1), workers, shuffle=False), self.rank, None, self.ranks)

    def _checked(self, labels: list[int]) -> Tensor:
        if not 0 <= min(labels) <= max(labels) < len(self.stream.class_names):
            count = len(self.stream.class_names)
            raise DataError(
                f"{self.stream.name}: labels from {min(labels)} to {max(labels)}, there are {count} classes"
            )
        return torch.tensor(labels)


class StreamLoader:
    """Yields batches of a stream: images (b, S, S, 3) uint8 and labels (b,).

    In training, all batches have the same size. The order follows from seed, epoch and the numbers of ranks and of
    processes that read. Ranks read whole shards, some of which may come twice in an epoch and some not at all. In
    evaluation, every image comes once over all ranks.

    Args:
        transform: from an image in RGB to (S, S, 3) uint8.
        seed: of order and transform; None: for evaluation.

    Raises:
        ConfigError: fewer shards than ranks.
    """

    batch_sampler = None
    """Lightning looks for this attribute beside `sampler`."""

    def __init__(
        self,
        stream: Stream,
        transform: Transform,
        batch_size: int,
        num_workers: int,
        seed: int | None,
        ranks: int = 1,
        rank: int = 0,
    ) -> None:
        self.dataset, self.batch_size, self.seed = stream, batch_size, seed
        self.replaced: set[int] = set()
        if stream.shards is not None:
            if seed is not None and stream.shards < ranks:
                raise ConfigError(f"{stream.name}: {stream.shards} shards cannot be shared by {ranks} processes")
            num_workers = min(num_workers, stream.shards // ranks if seed is not None else stream.shards)
        self._squares = _Squares(stream, transform, batch_size, seed, rank, ranks)
        per_worker = -(-stream.count // (ranks * max(1, num_workers) * batch_size))
        self.batches = per_worker * max(1, num_workers)
        if seed is not None:
            self._squares.most = per_worker
        self.sampler = StreamOrder(self.batches * batch_size)
        self._generator = torch.Generator()
        self._loader: Any = DataLoader(
            self._squares,
            batch_size=None,
            num_workers=num_workers,
            multiprocessing_context=START if num_workers else None,
            worker_init_fn=outlive_signals,
            pin_memory=torch.cuda.is_available(),
            generator=self._generator,
        )

    def __iter__(self) -> Iterator[Any]:
        self._squares.epoch = self.sampler.epoch
        self._generator.manual_seed((self.seed or 0) + self.sampler.epoch)
        for batch in self._loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch


class TrainingStreamLoader(StreamLoader):
    """Yields a known number of batches an epoch."""

    def __len__(self) -> int:
        return self.batches
