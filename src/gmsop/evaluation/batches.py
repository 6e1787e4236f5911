"""Run a model over a stream of images: decoded by threads, computed in batches, on several devices, in order.

Pillow decodes and resizes without Python's lock, so that threads use all processors, and nothing is copied between
processes. At any time a few batches are in memory, however many images follow.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmsop.backbones.dry_run import evaluating
from gmsop.data.image_sources import FoundImage
from gmsop.data.preprocess import Preprocess
from gmsop.engine.precision import PRECISIONS
from gmsop.errors import ConfigError, DataError
from gmsop.models.classifier import PooledClassifier
from gmsop.utils.processors import available_processors
from gmsop.utils.text import first_line, printable

T = TypeVar("T")
NOT_FINITE = "the model's answer is not a number: weights that are not, or numbers too large for the precision"
AHEAD = 3
"""Batches that are decoded, or computed, at a time."""
LARGEST = 64
"""Images in a batch where nothing is said."""
CACHED_PIXELS = 4 * 224 * 224
"""Pixels of a batch on a CPU where nothing is said. Features of more of them leave the processor's caches: 64 images of
224 pixels take EfficientNet-Lite0 more than twice as long each as four of them (docs/results/prediction.md)."""


class Batch(NamedTuple, Generic[T]):
    """Holds what became of some images, in their order."""

    names: list[str]
    reasons: list[str | None]
    """Why an image could not be read; None of one that could."""
    rows: list[int]
    """Where the answer of each image lies; -1 of one that could not be read."""
    answer: T | None
    """What was computed of those that could be read; None if none could."""


class _Decoded(NamedTuple):
    name: str
    pixels: NDArray[np.uint8] | None
    reason: str | None


def in_batches(
    model: PooledClassifier,
    images: Iterable[FoundImage],
    compute: Callable[[PooledClassifier, Tensor], T],
    preprocess: Preprocess,
    batch_size: int | None = None,
    num_workers: int | None = None,
    precision: str = "32-true",
    devices: str | Sequence[str | torch.device] = "auto",
) -> Iterator[Batch[T]]:
    """Yield what `compute` makes of each batch of images, in their order.

    Meanwhile the model is in evaluation mode, and afterwards in the mode that it had.

    Args:
        compute: takes the model and its input (b, 3, S, S), in inference mode; gives what lies on a CPU.
        preprocess: how images are read.
        batch_size: images at a time on each device; None: `LARGEST`, on a CPU as many as make up `CACHED_PIXELS`.
        num_workers: threads that decode; None: as many as there are processors for this process; 0: none beside.
        precision: one of `PRECISIONS`.
        devices: "auto": where the model is, or all GPUs if there are any; a number of GPUs; or devices of PyTorch.

    Raises:
        ConfigError: a size, a number, a precision or devices that cannot be.
    """
    if (batch_size is not None and batch_size < 1) or (num_workers is not None and num_workers < 0):
        raise ConfigError(f"batch_size {batch_size} and num_workers {num_workers}: must be at least 1 and 0")
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    replicas = _replicas(model, devices)
    if batch_size is None:
        on_cpu = any(next(replica.parameters()).device.type == "cpu" for replica in replicas)
        batch_size = min(LARGEST, max(1, CACHED_PIXELS // preprocess.image_size**2)) if on_cpu else LARGEST
    return _batches(replicas, iter(images), compute, preprocess, batch_size, num_workers, precision)


def _replicas(model: PooledClassifier, devices: str | Sequence[str | torch.device]) -> list[PooledClassifier]:
    """Return the model once for each device."""
    own = next(model.parameters()).device
    found: list[torch.device]
    if isinstance(devices, str):
        kind: Any = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        there = 0 if kind is None else torch.accelerator.device_count()
        if devices == "auto":
            found = [torch.device(kind.type, i) for i in range(there)] if there and own.type == "cpu" else [own]
        elif devices.isdecimal():
            if devices == "1" and not there:
                found = [own]
            elif not 1 <= int(devices) <= there:
                raise ConfigError(f"devices: {devices} asked for, this machine has {there} GPUs")
            else:
                found = [torch.device(kind.type, i) for i in range(int(devices))]
        else:
            return _replicas(model, devices.split(","))
    else:
        try:
            found = [torch.device(each) for each in devices]
            for each in found:
                torch.empty(0, device=each)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"devices: {first_line(error)}") from error
    if not found:
        raise ConfigError("devices: none given")
    return [model if i == 0 and each == own else copy.deepcopy(model).to(each) for i, each in enumerate(found)]


def _batches(
    replicas: list[PooledClassifier],
    images: Iterator[FoundImage],
    compute: Callable[[PooledClassifier, Tensor], T],
    preprocess: Preprocess,
    batch_size: int,
    num_workers: int | None,
    precision: str,
) -> Iterator[Batch[T]]:
    with ExitStack() as modes:
        for replica in replicas:
            modes.enter_context(evaluating(replica))
        yield from _computed(_Run(replicas, compute, preprocess, precision), images, batch_size, num_workers)


def _computed(
    run: "_Run[T]", images: Iterator[FoundImage], batch_size: int, num_workers: int | None
) -> Iterator[Batch[T]]:
    threads = available_processors() if num_workers is None else num_workers
    replicas, preprocess = run.replicas, run.preprocess
    if threads == 0 and len(replicas) == 1:
        while found := list(islice(images, batch_size)):
            yield run.computed([_decode(each, preprocess) for each in found], 0)
        return
    decoders = ThreadPoolExecutor(max(1, threads), "gmsop-decode")
    runners = [ThreadPoolExecutor(1, "gmsop-device") for _ in replicas]
    decoding: deque[list[Future[_Decoded]]] = deque()
    running: deque[Future[Batch[T]]] = deque()
    number = 0
    try:
        while True:
            while len(decoding) < AHEAD and (found := list(islice(images, batch_size))):
                decoding.append([decoders.submit(_decode, each, preprocess) for each in found])
            while decoding and len(running) < len(replicas) + 1:
                batch = [future.result() for future in decoding.popleft()]
                device = number % len(replicas)
                running.append(runners[device].submit(run.computed, batch, device))
                number += 1
                if found := list(islice(images, batch_size)):
                    decoding.append([decoders.submit(_decode, each, preprocess) for each in found])
            if not running:
                return
            yield running.popleft().result()
    finally:
        for pool in (decoders, *runners):
            pool.shutdown(wait=True, cancel_futures=True)


def _decode(image: FoundImage, preprocess: Preprocess) -> _Decoded:
    try:
        return _Decoded(image.name, preprocess.fit(image.decode(preprocess.exif_orientation)), None)
    except DataError as error:
        reason = str(error)
    except OSError as error:
        reason = error.strerror or str(error)
    except MemoryError:
        reason = "too large for the memory there is"
    shown = printable(image.name)
    return _Decoded(image.name, None, reason if shown in reason else f"{shown}: {reason}")


class _Run(Generic[T]):
    """Computes batches on the devices."""

    def __init__(
        self,
        replicas: list[PooledClassifier],
        compute: Callable[[PooledClassifier, Tensor], T],
        preprocess: Preprocess,
        precision: str,
    ) -> None:
        self.replicas, self.compute, self.preprocess = replicas, compute, preprocess
        self.dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
        if precision == "64-true":
            self.replicas = [copy.deepcopy(replica).double() for replica in replicas]

    def computed(self, batch: list[_Decoded], device: int) -> Batch[T]:
        names, reasons = [each.name for each in batch], [each.reason for each in batch]
        pixels = [each.pixels for each in batch if each.pixels is not None]
        order = iter(range(len(pixels)))
        rows = [-1 if each.pixels is None else next(order) for each in batch]
        if not pixels:
            return Batch(names, reasons, rows, None)
        model = self.replicas[device]
        like = next(model.parameters())
        stacked = torch.from_numpy(np.stack(pixels)).to(like.device, non_blocking=True)
        autocast: Any = nullcontext() if self.dtype is None else torch.autocast(like.device.type, self.dtype)
        with torch.inference_mode(), autocast:
            answer = self.compute(model, self.preprocess.input(stacked, like.dtype))
        return Batch(names, reasons, rows, answer)
