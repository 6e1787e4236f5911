"""Error rates of a model on a set, and what its gate does there."""

import math
import time
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics import SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from gmsop.data import FolderDataset, PackedDataset, val_loader
from gmsop.errors import ConfigError, DataError
from gmsop.nn import GatedMixture, PooledClassifier
from gmsop.recipe import PRECISIONS
from gmsop.trainer import determinism_as_before, make_trainer
from gmsop.usage import GateUsage, Usage


@dataclass(frozen=True)
class Evaluation:
    """Errors in percent."""

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

    @property
    def top1_interval(self) -> tuple[float, float]:
        """95 % confidence interval of the top-1 error."""
        return wilson_interval(self.top1_error, self.images)

    @property
    def top5_interval(self) -> tuple[float, float]:
        """95 % confidence interval of the top-5 error."""
        return wilson_interval(self.top5_error, self.images)


def wilson_interval(percent: float, count: int) -> tuple[float, float]:
    """95 % confidence interval of a share of `count` independent images, in percent; NaN of none, or of NaN.

    Source: Wilson 1927; unlike the normal approximation it holds near 0 and 100 %.
    """
    if count == 0 or math.isnan(percent):
        return math.nan, math.nan
    from scipy.stats import binomtest  # slow to import

    found = binomtest(round(percent / 100 * count), count).proportion_ci(method="wilson")
    return 100 * float(found.low), 100 * float(found.high)


class EvaluationTask(LightningModule):
    """Counts errors over whole sets, on any number of ranks. Batches: images (b, S, S, 3) uint8, labels (b,)."""

    def __init__(self, model: PooledClassifier) -> None:
        super().__init__()
        self.model = model
        classes = model.num_classes
        if classes < 1:
            raise ConfigError("the model has no classifier (num_classes = 0): there is nothing to evaluate")
        # Labels are checked where sets are opened; here a check would stop a GPU at every batch.
        self.confusion = MulticlassConfusionMatrix(max(2, classes), validate_args=False)
        self.top5 = MulticlassAccuracy(classes, top_k=min(5, classes), average="micro", validate_args=False)
        self.total_loss = SumMetric(nan_strategy=math.inf)  # or a loss that is NaN would not count
        pool = model.pool
        self.usage = GateUsage(classes, pool.gate.num_components) if isinstance(pool, GatedMixture) else None

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (b, S, S, 3) to the model's input (b, 3, S, S): see `model.pretrained_cfg`'s mean and std."""
        dtype, cfg = next(self.model.parameters()).dtype, self.model.pretrained_cfg
        mean, std = (_in_pixels(tuple(cfg[key]), dtype, images.device) for key in ("mean", "std"))
        return images.to(dtype).sub_(mean).div_(std).permute(0, 3, 1, 2)

    def _evaluate(self, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
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
        self._evaluation_started = time.perf_counter()

    def _result(self) -> Evaluation:
        """Over all ranks; every rank must call it."""
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
        self._reset()

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        self.result = self._result()


def require_fit(model: PooledClassifier, dataset: PackedDataset | FolderDataset) -> None:
    """Refuse a set the model cannot be judged on.

    Raises:
        DataError: another number of classes, other names of them, colour images for a model of other channels, or no
            images.
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
    if model.init_args.get("in_chans", 3) != 3:
        raise DataError(f"{dataset.path} holds RGB images, the model takes {model.init_args['in_chans']} channels")


@determinism_as_before()
def evaluate(
    model: PooledClassifier,
    dataset: PackedDataset | FolderDataset,
    batch_size: int = 256,
    num_workers: int = 0,
    precision: str = "32-true",
    progress: bool = False,
    devices: int | str = 1,
) -> Evaluation:
    """Top-1 and top-5 error of `model` on every image of `dataset`, each counted once, single centre view.

    Args:
        batch_size: images at a time on each device.
        precision: one of `PRECISIONS`, as Lightning's Trainer names them.
        devices: how many of them share the images; "auto": all there are.

    Raises:
        DataError: see `require_fit`.
        ConfigError: the model has no classifier; a batch size, number of processes or precision that cannot be.
    """
    require_fit(model, dataset)
    if batch_size < 1 or num_workers < 0:
        raise ConfigError(f"batch_size {batch_size} and num_workers {num_workers}: must be at least 1 and 0")
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    task = EvaluationTask(model)
    trainer: Trainer = make_trainer(precision=precision, progress=progress, devices=devices)
    require_share(dataset, trainer.world_size)
    loader = val_loader(dataset, batch_size, num_workers, trainer.world_size, trainer.global_rank)
    first = next(model.parameters())
    device, dtype = first.device, first.dtype
    try:
        trainer.test(task, loader, verbose=False)
    finally:
        model.to(device, dtype)  # Lightning leaves it on the CPU, and in the precision that it evaluated in
    return task.result


def require_share(dataset: PackedDataset | FolderDataset, ranks: int) -> None:
    """Refuse a set of fewer images than there are processes to share them: one without any would wait for ever.

    Raises:
        DataError: there are.
    """
    if len(dataset) < ranks:
        raise DataError(
            f"{dataset.path}: {len(dataset)} images of {dataset.split!r} cannot be shared by {ranks} devices"
        )


@lru_cache(16)
def _in_pixels(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Shares of white as pixel values; made once, since a copy to a GPU waits for it."""
    with torch.inference_mode(False):
        return torch.tensor([255 * v for v in values], dtype=dtype, device=device)
