"""Training by a recipe: SGD on cross-entropy plus balance loss, checkpoints, logs, curves, resume."""

import signal
import time
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F

from gmsop.assembly import OPTIONS
from gmsop.checkpoint import describe, load_model, read_training_checkpoint, save_model
from gmsop.curves import plot_curves
from gmsop.data import PackedDataset, train_loader, val_loader
from gmsop.errors import CheckpointError, ConfigError, DataError, TrainingError
from gmsop.evaluation import Evaluation, EvaluationTask, require_fit
from gmsop.files import write_error, writing
from gmsop.metrics import log_epoch
from gmsop.models import create_model
from gmsop.nn import PooledClassifier
from gmsop.ops import balance_loss
from gmsop.recipe import Recipe
from gmsop.trainer import make_trainer


@dataclass(frozen=True)
class Run:
    """What a finished run left behind."""

    folder: Path
    result: Evaluation
    """On the validation split, of the last epoch."""
    best_top1_error: float
    best_epoch: int
    seconds: float
    """Wall-clock time of training and validation."""
    parameters: int


class TrainingTask(EvaluationTask):
    """The optimisation a `Recipe` describes."""

    def __init__(self, model: PooledClassifier, recipe: Recipe, metrics_file: Path | None = None) -> None:
        super().__init__(model)
        self.recipe = recipe
        self.metrics_file = metrics_file

    def on_train_epoch_start(self) -> None:
        self._started = time.perf_counter()

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        # All randomness of a step (flips, dropout, noise, ties) follows from the seed and where the step is, so that a
        # run goes on from any step exactly as one that was never stopped.
        place = np.random.SeedSequence((self.recipe.seed, self.current_epoch, index, self.global_rank))
        torch.manual_seed(int(place.generate_state(1, np.uint64)[0]))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        logits, routing = self.model(self._flip(self.prepare(images)), return_routing=True)
        loss = F.cross_entropy(logits, labels)
        self._log_mean("train/loss", loss, len(labels), prog_bar=True)
        self._log_mean("train/top1_error", 100 * (logits.argmax(1) != labels).float().mean(), len(labels))
        if routing is not None:
            balance = balance_loss(routing.dense, across_ranks=True)
            self._log_mean("train/balance_loss", balance, len(labels))
            ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
            loss = loss + self.recipe.balance_weight / (len(labels) * ranks) * balance
        if not loss.isfinite():
            self._stop(images, index)
        return loss

    def _stop(self, images: Tensor, index: int) -> None:
        """Say all that is known of a loss that is not finite."""
        loader: Any = self.trainer.train_dataloader
        loader.sampler.set_epoch(self.current_epoch)
        size = loader.batch_size
        indices = list(loader.sampler)[index * size : (index + 1) * size]
        layer = first_non_finite(self.model, self.prepare(images)) or "the loss itself: all layers are finite"
        saved = self.metrics_file and self.metrics_file.parent / "last.ckpt"
        good = f"the last good checkpoint is {saved}" if saved and saved.exists() else "no epoch was finished"
        where = f"step {self.global_step} (epoch {self.current_epoch + 1}, batch {index + 1})"
        raise TrainingError(
            f"the loss is not finite in {where}; it began in {layer}; the batch's images in the training set: "
            f"{indices}; {good}. A smaller --lr is the first thing to try"
        )

    def _log_mean(self, name: str, value: Tensor, count: int, prog_bar: bool = False) -> None:
        self.log(name, value.detach(), on_step=False, on_epoch=True, batch_size=count, prog_bar=prog_bar)

    def _flip(self, images: Tensor) -> Tensor:
        axes = {"random": (3,), "all": (3, 2), "none": (), "both": ()}[self.recipe.flip]
        for axis in axes:
            flip = torch.rand(len(images), device=images.device) < 0.5
            images = torch.where(flip[:, None, None, None], images.flip(axis), images)
        return images

    def on_train_epoch_end(self) -> None:
        rates = [group["lr"] for group in self.optimizers().param_groups]  # type: ignore[union-attr]
        self.log("lr", max(rates))
        self.log("epoch_seconds", time.perf_counter() - self._started)
        if self.metrics_file is not None and self.trainer.is_global_zero:
            values = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
            values.pop("epoch_seconds", None)  # the one value that is not the same when a run is repeated
            log_epoch(self.metrics_file, self.current_epoch, {"lr": max(rates), **values})

    def on_validation_epoch_start(self) -> None:
        self._reset()

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self.result = self._result()
        self.log("val/loss", self.result.loss)
        self.log("val/top1_error", self.result.top1_error, prog_bar=True)
        self.log("val/top5_error", self.result.top5_error)

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        stem = self.model.backbone.stem.conv.weight  # type: ignore[union-attr]
        rest = [p for p in self.model.parameters() if p is not stem and p.requires_grad]
        groups = [{"params": rest, "lr": recipe.lr}, {"params": [stem], "lr": recipe.lr / recipe.stem_scale**2}]
        optimizer = torch.optim.SGD(
            groups, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=recipe.weight_decay
        )
        if recipe.schedule == "one_cycle":
            rates = [float(group["lr"]) for group in optimizer.param_groups]
            steps = int(self.trainer.estimated_stepping_batches)
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}
        milestones = list(accumulate(recipe.epochs_per_rate))[:-1]
        step = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=recipe.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": step, "interval": "epoch"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["gmsop"] = {"model": describe(self.model), "recipe": self.recipe.to_dict()}


@torch.no_grad()
def first_non_finite(model: nn.Module, images: Tensor) -> str | None:
    """Name of the first module, innermost first, that gives a value that is not finite."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = [t for t in (output if isinstance(output, tuple) else (output,)) if isinstance(t, Tensor)]
            if not all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point()):
                found.append(name)

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        model(images)
    finally:
        for handle in hooks:
            handle.remove()
    return found[0] if found else None


class EpochLines(Callback):
    """One line per epoch, kept on the screen above the progress bar."""

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        values = {k: float(v) for k, v in trainer.callback_metrics.items()}
        width = len(str(trainer.max_epochs))
        line = (
            f"epoch {trainer.current_epoch + 1:{width}}/{trainer.max_epochs}  loss {values['train/loss']:.3f}  "
            f"validation: top-1 error {values['val/top1_error']:5.2f} %, top-5 {values['val/top5_error']:5.2f} %"
        )
        if trainer.is_global_zero:
            task.print(line)


def train(
    recipe: Recipe,
    data: str | Path,
    out: str | Path,
    resume: str | Path | None = None,
    progress: bool = False,
) -> Run:
    """Train `recipe.model` on the packed set `data`.

    Leaves in the folder `out`: `recipe.yaml`, `metrics.csv`, TensorBoard events, `curves.png`, `best.ckpt` (lowest
    top-1 error on val) and `last.ckpt`, `model.safetensors` (the weights of `best.ckpt`).

    Args:
        resume: a training checkpoint, usually `out/last.ckpt`, to go on from.
        progress: show a progress bar and a line per epoch.

    Raises:
        ConfigError: a recipe value that cannot work; `out` already holds a run and `resume` is not given; `resume` is
            of another recipe, or complete.
        DataError: `data` is no valid packed set, or of another image size than the recipe's.
        TrainingError: the loss is not finite any more; the text says where it began and what checkpoint is good.
        CheckpointError: `resume` is missing, damaged, or of another model.
        KeyboardInterrupt: Ctrl-C; its text says how to go on.
    """
    recipe.check()
    out = Path(out)
    if resume is None:
        _require_free(out)
    train_set, val_set = PackedDataset(data, "train"), PackedDataset(data, "val")
    if len(train_set) < 2:
        raise DataError(f"{data}: {len(train_set)} images to train on; BatchNorm needs at least two")
    if train_set.image_size != recipe.image_size:
        raise DataError(
            f"{data} holds images of {train_set.image_size} pixels, the recipe is for {recipe.image_size}; "
            f"pass --image_size {train_set.image_size} to train on them all the same"
        )
    pl.seed_everything(recipe.seed, verbose=False)
    model = _fresh_model(recipe, train_set)
    require_fit(model, train_set)
    require_fit(model, val_set)
    if resume is not None:
        _check_resumable(resume, model, recipe)
    _save_recipe(recipe, out)
    task = TrainingTask(model, recipe, out / "metrics.csv")
    best = ModelCheckpoint(
        out, "best", monitor="val/top1_error", mode="min", save_on_train_epoch_end=True, enable_version_counter=False
    )
    last = ModelCheckpoint(out, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    trainer = make_trainer(
        progress,
        [best, last, *([EpochLines()] if progress else [])],
        max_epochs=recipe.total_epochs,
        precision=recipe.precision,
        logger=TensorBoardLogger(out, name="", version=""),
        log_every_n_steps=50,
    )
    ranks = trainer.world_size
    if recipe.batch_size % ranks:
        raise ConfigError(f"batch_size {recipe.batch_size} cannot be shared equally by {ranks} devices")
    loader = train_loader(
        train_set, recipe.batch_size // ranks, recipe.seed, recipe.flip == "both", recipe.num_workers, ranks,
        trainer.global_rank, recipe.loader, trainer.strategy.root_device,
    )  # fmt: skip
    started = time.perf_counter()
    judge = val_loader(
        val_set, recipe.batch_size // ranks, recipe.num_workers, ranks, trainer.global_rank, recipe.loader,
        trainer.strategy.root_device,
    )  # fmt: skip
    try:
        trainer.fit(task, loader, judge, ckpt_path=resume, weights_only=True)
    except OSError as error:
        raise write_error(out, error) from error
    except SystemExit:  # how Lightning ends after Ctrl-C
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has switched it off
        hint = f"go on with: gmsop train --resume {out}" if (out / "last.ckpt").exists() else "no epoch was finished"
        raise KeyboardInterrupt(hint) from None
    seconds = time.perf_counter() - started
    if trainer.is_global_zero:
        plot_curves({recipe.model: out / "metrics.csv"}, out / "curves.png")
        save_model(load_model(best.best_model_path), out / "model.safetensors")
    assert best.best_model_score is not None
    return Run(
        folder=out,
        result=task.result,
        best_top1_error=float(best.best_model_score),
        best_epoch=int(read_training_checkpoint(best.best_model_path)["epoch"]) + 1,
        seconds=seconds,
        parameters=sum(p.numel() for p in model.parameters()),
    )


def _require_free(out: Path) -> None:
    """Refuse a folder whose files a run would replace. A run that ended before its first epoch did has none."""
    if (out / "last.ckpt").exists():
        raise ConfigError(f"{out} already holds a run; choose another --out, or go on with --resume {out}")
    if found := [name for name in ("best.ckpt", "metrics.csv", "model.safetensors") if (out / name).exists()]:
        raise ConfigError(f"{out} already holds {', '.join(found)}; choose another --out")


def _fresh_model(recipe: Recipe, dataset: PackedDataset) -> PooledClassifier:
    for option in recipe.model_args:
        if option not in OPTIONS:
            raise ConfigError(f"recipe: model_args has no option {option!r}; there are {', '.join(sorted(OPTIONS))}")
    model = create_model(recipe.model, len(dataset.class_names), **recipe.model_args)
    with torch.no_grad():
        model.backbone.stem.conv.weight.div_(recipe.stem_scale)  # type: ignore[union-attr, operator]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = recipe.bn_momentum
    meta = dataset.meta
    std = meta["rgb_std"] if recipe.normalize == "mean_std" else (1.0, 1.0, 1.0)
    if min(std) <= 0:
        raise DataError(f"{dataset.path}: a colour channel never varies (rgb_std {std}): use normalize: mean")
    model.pretrained_cfg.update(
        mean=tuple(v / 255 for v in meta["rgb_mean"]),
        std=tuple(v / 255 for v in std),
        input_size=(3, dataset.image_size, dataset.image_size),
        num_classes=model.num_classes,
        label_names=dataset.class_names,
    )
    return model


def _check_resumable(resume: str | Path, model: PooledClassifier, recipe: Recipe) -> None:
    checkpoint = read_training_checkpoint(resume)
    found, wanted = checkpoint["gmsop"]["model"], describe(model)
    for key in ("name", "num_classes", "init_args"):
        if found[key] != wanted[key]:
            raise CheckpointError(f"{resume}: another model ({key} {found[key]}, the recipe has {wanted[key]})")
    before, now = checkpoint["gmsop"]["recipe"], recipe.to_dict()
    free = ("num_workers", "loader")  # which change no batch
    changed = [f"{k} {before.get(k)} -> {now[k]}" for k in now if now[k] != before.get(k) and k not in free]
    if changed:
        raise ConfigError(f"{resume}: a run is resumed by its own recipe, but {'; '.join(changed)}")
    if checkpoint["epoch"] + 1 >= recipe.total_epochs:
        raise ConfigError(f"{resume}: the run is complete, all {recipe.total_epochs} epochs are done")


def _save_recipe(recipe: Recipe, out: Path) -> None:
    with writing(out / "recipe.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False))
