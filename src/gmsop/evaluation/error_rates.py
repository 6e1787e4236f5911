"""Measure the error rates of a model on a set, and what its gate does there."""

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics import SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from gmsop.data import FolderDataset, PackedDataset, val_loader
from gmsop.data.image_folder import unread
from gmsop.data.other_datasets import OtherDataset
from gmsop.data.photographs import Photographs
from gmsop.data.preprocess import Preprocess
from gmsop.data.reading_processes import deaths_in_words
from gmsop.data.streamed import Streamed
from gmsop.engine.messages import warn
from gmsop.engine.precision import PRECISIONS
from gmsop.engine.trainer import make_trainer, settings_as_before
from gmsop.errors import ConfigError, DataError
from gmsop.evaluation.intervals import wilson_interval
from gmsop.evaluation.usage import GateUsage, Usage
from gmsop.models.classifier import PooledClassifier, plain_model

Judged = PackedDataset | FolderDataset | Photographs | Streamed | OtherDataset
"""Sets of images that a model can be judged on."""


@dataclass(frozen=True)
class Evaluation:
    """Holds the results of an evaluation. Errors are in percent."""

    images: int
    top1_error: float
    top5_error: float
    loss: float
    class_errors: list[float]
    """Top-1 error per class; NaN for a class without images."""
    confusion: Tensor = field(compare=False, repr=False)
    """(classes, classes), int64: images by true class (row) and by the model's answer (column)."""
    usage: Usage | None = field(compare=False, repr=False)
    """What the gate did per class, or None without a gate."""
    seconds: float = field(default=math.nan, compare=False)
    """Wall-clock time of all batches, reading included."""
    skipped: list[str] = field(default_factory=list, compare=False)
    """Images that could not be read, with the reason; they are counted nowhere."""

    @property
    def top1_interval(self) -> tuple[float, float]:
        """Return the 95 % confidence interval of the top-1 error."""
        return wilson_interval(self.top1_error, self.images)

    @property
    def top5_interval(self) -> tuple[float, float]:
        """Return the 95 % confidence interval of the top-5 error."""
        return wilson_interval(self.top5_error, self.images)


class EvaluationTask(LightningModule):
    """Counts errors over whole sets, on any number of ranks. A batch is images (b, S, S, 3) uint8 and labels (b,)."""

    def __init__(self, model: PooledClassifier) -> None:
        super().__init__()
        self.model = model
        self.skipping: FolderDataset | Photographs | None = None
        """Set where images that cannot be read are skipped."""
        self.unread: list[int] = []
        classes = model.num_classes
        if classes < 1:
            raise ConfigError("the model has no classifier (num_classes = 0): there is nothing to evaluate")
        # Labels are checked where sets are opened; here a check would stop a GPU at every batch.
        self.confusion = MulticlassConfusionMatrix(max(2, classes), validate_args=False)
        self.top5 = MulticlassAccuracy(classes, top_k=min(5, classes), average="micro", validate_args=False)
        self.total_loss = SumMetric(nan_strategy=math.inf)  # otherwise a loss that is NaN would not count
        self.usage = None if model.gate is None else GateUsage(classes, model.gate.num_components)

    def prepare(self, images: Tensor) -> Tensor:
        """Turn uint8 (b, S, S, 3) into the model's input (b, 3, S, S), as `model.pretrained_cfg` says."""
        return Preprocess.of(self.model.pretrained_cfg).input(images, next(self.model.parameters()).dtype)

    def _evaluate(self, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        if self.skipping is not None:
            readable = labels >= 0
            self.unread += labels[~readable].tolist()
            images, labels = images[readable], labels[readable]
            if not len(labels):
                return
        logits, routing = self.model(self.prepare(images), return_routing=True)
        scores = logits.float()
        self.confusion.update(scores, labels)
        self.top5.update(scores, labels)
        self.total_loss.update(nn.functional.cross_entropy(scores, labels, reduction="none"))
        if self.usage is not None:
            self.usage.update(routing, labels)

    def _reset(self) -> None:
        for metric in (self.confusion, self.top5, self.total_loss, self.usage):
            if metric is not None:
                metric.reset()
        self.unread = []
        self._evaluation_started = time.perf_counter()

    def _result(self) -> Evaluation:
        """Return the results over all ranks. Every rank must call this."""
        confusion = self.confusion.compute().cpu()
        right, count = confusion.diagonal(), confusion.sum(1)
        usage = None if self.usage is None else self.usage.compute()
        return Evaluation(
            images=int(count.sum()),
            top1_error=100 * (1 - int(right.sum()) / int(count.sum())),
            top5_error=100 * (1 - self.top5.compute().item()),
            loss=self.total_loss.compute().item() / int(count.sum()),
            class_errors=[
                100 * (1 - r / n) if n else math.nan for r, n in zip(right.tolist(), count.tolist(), strict=True)
            ],
            confusion=confusion,
            usage=usage,
            seconds=time.perf_counter() - self._evaluation_started,
        )

    def on_test_epoch_start(self) -> None:
        """Set all counts to zero."""
        self._reset()

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Count the errors of one batch."""
        self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        """Keep the results over all ranks in `result`."""
        skipped = self._skipped()
        self.result = replace(self._result(), skipped=skipped)

    def _skipped(self) -> list[str]:
        """Return the images that could not be read, of all ranks."""
        if self.skipping is None:
            return []
        everywhere = [self.unread]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            everywhere = [[] for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather_object(everywhere, self.unread)
        skipped = [self.skipping.reason(unread(label)) for labels in everywhere for label in labels]
        if skipped and len(skipped) == len(self.skipping):
            raise DataError(f"{self.skipping.path}: no image can be read; the first: {skipped[0]}")
        return skipped


def require_fit(model: PooledClassifier, dataset: Judged) -> None:
    """Refuse a set that the model cannot be judged on.

    Raises:
        DataError: the set has another number of classes, other names of them, a single class or no images; or the model
            does not take RGB images.
    """
    if len(dataset) == 0:
        raise DataError(f"{dataset.path}: the split {dataset.split!r} has no images")
    if len(dataset.class_names) < 2:
        raise DataError(f"{dataset.path} has a single class: there is nothing to tell apart")
    if len(dataset.class_names) != model.num_classes:
        raise DataError(
            f"{dataset.path} has {len(dataset.class_names)} classes, the model tells {model.num_classes} apart"
        )
    known = model.pretrained_cfg.get("label_names")
    if known and known != dataset.class_names:
        ours, theirs = next((a, b) for a, b in zip(known, dataset.class_names, strict=True) if a != b)
        raise DataError(f"{dataset.path} has a class {theirs!r} where the model knows {ours!r}: its classes are others")
    if model.in_chans != 3:
        raise DataError(f"{dataset.path} holds RGB images, the model takes {model.in_chans} channels")


@settings_as_before()
def evaluate(
    model: PooledClassifier,
    dataset: Any,
    batch_size: int = 256,
    num_workers: int = 0,
    precision: str = "32-true",
    progress: bool = False,
    devices: int | str = 1,
) -> Evaluation:
    """Measure top-1 and top-5 error of `model` on every image of `dataset`, each counted once in a single centre view.

    Args:
        dataset: a `PackedDataset` or `FolderDataset`; or any dataset of (image, label), such as torchvision's
            ImageFolder without a transform, or one of Hugging Face: see `OtherDataset`.
        batch_size: images at a time on each device.
        precision: one of `PRECISIONS`, as Lightning's Trainer names them.
        devices: how many devices share the images; "auto": all there are.

    Raises:
        DataError: see `require_fit`; or there are fewer images than devices.
        ConfigError: the model has no classifier; or the batch size, the number of processes or the precision is not
            valid.
    """
    model = plain_model(model, keep_compiled=True)
    if isinstance(dataset, str | Path):
        raise ConfigError(f"dataset: {dataset} is a path; give PackedDataset(path) or FolderDataset(path, ...) of it")
    if not isinstance(dataset, Judged):
        cfg = model.pretrained_cfg
        dataset = OtherDataset(dataset, Preprocess.of(cfg), cfg.get("label_names"), model.num_classes)
    require_fit(model, dataset)
    if batch_size < 1 or num_workers < 0:
        raise ConfigError(f"batch_size {batch_size} and num_workers {num_workers}: must be at least 1 and 0")
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    task = EvaluationTask(model)
    if isinstance(dataset, FolderDataset | Photographs) and dataset.on_error == "skip":
        task.skipping = dataset
    trainer: Trainer = make_trainer(precision=precision, progress=progress, devices=devices)
    require_share(dataset, trainer.world_size)
    if isinstance(dataset, OtherDataset) and not dataset.has_length:
        loader: Any = dataset.batches(batch_size)  # more than one device was refused: how many images is not known
    else:
        loader = val_loader(dataset, batch_size, num_workers, trainer.world_size, trainer.global_rank)
    first = next(model.parameters())
    device, dtype = first.device, first.dtype
    try:
        with deaths_in_words():
            trainer.test(task, loader, verbose=False)
    finally:
        model.to(device, dtype)  # Lightning leaves it on the CPU, and in the precision that it evaluated in
    if not math.isfinite(task.result.loss):
        warn("the model's answers for some images are not numbers: its errors mean little; are its weights finite?")
    return task.result


def require_share(dataset: Judged, ranks: int) -> None:
    """Refuse a set with fewer images than processes: a process without images would wait for ever.

    Raises:
        DataError: there are fewer.
    """
    if len(dataset) < ranks:
        raise DataError(
            f"{dataset.path}: {len(dataset)} images of {dataset.split!r} cannot be shared by {ranks} devices"
        )
