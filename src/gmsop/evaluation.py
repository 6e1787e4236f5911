"""Error rates of a model on a packed set, and what its gate does there."""

import math
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from gmsop.data import PackedDataset, val_loader
from gmsop.errors import ConfigError, DataError
from gmsop.nn import PooledClassifier, Routing
from gmsop.trainer import make_trainer


class Evaluation(NamedTuple):
    """Errors in percent."""

    images: int
    top1_error: float
    top5_error: float
    loss: float
    class_errors: list[float]
    """Top-1 error per class; NaN for a class without images."""
    component_load: list[float] | None
    """Share of all gate weight that each component got, or None without a gate."""


class EvaluationTask(LightningModule):
    """Counts top-1 and top-5 errors over whole sets. Batches are (images (b, S, S, 3) uint8, labels (b,))."""

    def __init__(self, model: PooledClassifier) -> None:
        super().__init__()
        self.model = model
        classes = model.num_classes
        if classes < 1:
            raise ConfigError("the model has no classifier (num_classes = 0): there is nothing to evaluate")
        self.top1 = MulticlassAccuracy(classes, top_k=1, average="micro")
        self.top5 = MulticlassAccuracy(classes, top_k=min(5, classes), average="micro")
        self.per_class = MulticlassAccuracy(classes, top_k=1, average="none")
        self.mean_loss = MeanMetric()
        self.component_weight: Tensor | None = None
        self.seen = torch.zeros(classes, dtype=torch.long)

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (b, S, S, 3) to the model's input (b, 3, S, S): see `model.pretrained_cfg`'s mean and std."""
        dtype = next(self.model.parameters()).dtype
        mean, std = (
            torch.tensor([255 * v for v in self.model.pretrained_cfg[key]], dtype=dtype, device=images.device)
            for key in ("mean", "std")
        )
        return images.to(dtype).sub_(mean).div_(std).permute(0, 3, 1, 2)

    def _evaluate(self, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        logits, routing = self.model(self.prepare(images), return_routing=True)
        scores = logits.float()
        for metric in (self.top1, self.top5, self.per_class):
            metric.update(scores, labels)
        self.mean_loss.update(nn.functional.cross_entropy(scores, labels, reduction="none"))
        self.seen += torch.bincount(labels.cpu(), minlength=len(self.seen))
        if isinstance(routing, Routing):
            weight = routing.dense.sum(0).detach().double().cpu()
            self.component_weight = weight if self.component_weight is None else self.component_weight + weight

    def _reset(self) -> None:
        for metric in (self.top1, self.top5, self.per_class, self.mean_loss):
            metric.reset()
        self.component_weight = None
        self.seen.zero_()

    def _result(self) -> Evaluation:
        per_class = 100 * (1 - self.per_class.compute())
        load = self.component_weight
        return Evaluation(
            images=int(self.seen.sum()),
            top1_error=100 * (1 - self.top1.compute().item()),
            top5_error=100 * (1 - self.top5.compute().item()),
            loss=self.mean_loss.compute().item(),
            class_errors=[e if n else math.nan for e, n in zip(per_class.tolist(), self.seen.tolist(), strict=True)],
            component_load=None if load is None else (load / load.sum()).tolist(),
        )

    def on_test_epoch_start(self) -> None:
        self._reset()

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        self.result = self._result()


def require_fit(model: PooledClassifier, dataset: PackedDataset) -> None:
    """Refuse a set the model cannot be judged on.

    Raises:
        DataError: another number of classes, colour images for a model of other channels, or no images.
    """
    if len(dataset) == 0:
        raise DataError(f"{dataset.path}: the split {dataset.split!r} has no images")
    if len(dataset.class_names) < 2:
        raise DataError(f"{dataset.path} has a single class: there is nothing to tell apart")
    if len(dataset.class_names) != model.num_classes:
        raise DataError(
            f"{dataset.path} has {len(dataset.class_names)} classes, the model tells {model.num_classes} apart"
        )
    if model.init_args.get("in_chans", 3) != 3:
        raise DataError(f"{dataset.path} holds RGB images, the model takes {model.init_args['in_chans']} channels")


def evaluate(
    model: PooledClassifier,
    dataset: PackedDataset,
    batch_size: int = 256,
    num_workers: int = 0,
    precision: Any = "32-true",
    progress: bool = False,
) -> Evaluation:
    """Top-1 and top-5 error of `model` on every image of `dataset`, single centre view.

    Raises:
        DataError: see `require_fit`.
        ConfigError: the model has no classifier.
    """
    require_fit(model, dataset)
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    task = EvaluationTask(model)
    trainer: Trainer = make_trainer(precision=precision, progress=progress, devices=1)
    trainer.test(task, val_loader(dataset, batch_size, num_workers), verbose=False)
    return task.result
