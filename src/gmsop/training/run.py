"""A whole run: from a recipe, a set and an empty folder to a trained model, or onwards from where it stopped."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Callback

from gmsop.checkpoint import load_model, save_model
from gmsop.curves import plot_curves
from gmsop.data import PackedDataset, train_loader, val_loader
from gmsop.environment import note_start
from gmsop.errors import ConfigError, DataError
from gmsop.evaluation import Evaluation, require_fit, require_share
from gmsop.files import WriteError, writing
from gmsop.metrics import read_metrics, set_aside_damaged, total_seconds
from gmsop.recipe import Recipe
from gmsop.trainer import by_torchrun, determinism_as_before, make_trainer
from gmsop.training.averaging import Averaging
from gmsop.training.checkpoints import (
    BEST,
    LAST,
    CheckpointFiles,
    CheckpointWriter,
    clear_away,
    go_on_from,
    has_checkpoint,
    write_validation,
)
from gmsop.training.console import EpochLines, is_first_process, warn
from gmsop.training.loggers import make_loggers
from gmsop.training.model import fresh_model
from gmsop.training.resume import (
    RunComplete,
    fingerprint,
    open_checkpoint,
    require_same_passes,
    take_along,
    where_it_goes_on,
)
from gmsop.training.signals import Interrupted, Signals, Stop
from gmsop.training.task import TIMING, TrainingTask

WEIGHTS = "model.safetensors"
"""Of the best epoch, in the folder of a run that has ended."""


@dataclass(frozen=True)
class Run:
    """What a finished run left behind."""

    folder: Path
    result: Evaluation
    """On the validation split, of the last epoch."""
    best_top1_error: float
    best_epoch: int
    seconds: float
    """Of training and validation, in all starts."""
    parameters: int


@determinism_as_before()
def train(
    recipe: Recipe,
    data: str | Path,
    out: str | Path,
    resume: str | Path | None = None,
    progress: bool = False,
    *,
    allow_changes: bool = False,
    devices: int | str = "auto",
    num_nodes: int = 1,
    accelerator: str = "auto",
    wandb: str | None = None,
) -> Run:
    """Train `recipe.model` on the packed set `data`.

    Leaves in the folder `out`: `recipe.yaml`, `environment.json`, `metrics.csv`, `timing.csv`, TensorBoard events,
    `curves.png`, `best.ckpt` (lowest top-1 error on val) and `validation.npz` (its confusion matrix and gate usage),
    `last.ckpt` and `previous.ckpt`, `model.safetensors` (the weights of `best.ckpt`).

    Runs in one process, or in as many as there are devices: started by Lightning, or by `torchrun`, whose numbers then
    count. The recipe's batch size is that of all of them together.

    Args:
        resume: a run folder, usually `out`, or a `.ckpt` file, to go on from. A run that ended before its first
            checkpoint begins anew.
        progress: show a progress bar and a line per epoch.
        allow_changes: resume with another recipe, or other data, than the run had.
        devices: processes on this machine, one per GPU (or CPU process); "auto": all GPUs, or one CPU process.
        num_nodes: machines.
        accelerator: "cpu", "cuda", ... as Lightning names them.
        wandb: a Weights & Biases project to log to.

    Raises:
        ConfigError: a recipe value that cannot work, here or at all; `out` already holds a run and `resume` is not
            given; `resume` is of another recipe.
        RunComplete: `resume` has done all its epochs. What should lie in `out` at the end lies there.
        DataError: `data` is no valid packed set, or of another image size than the recipe's.
        TrainingError: the loss is not finite any more; the text says where it began and what checkpoint is good.
        CheckpointError: `resume` is missing, damaged, or of another model.
        WriteError: `out` cannot be written at the start or at the end; in between it is warned about.
        KeyboardInterrupt: Ctrl-C or SIGTERM (`Interrupted`, with its `signum`); its text says how to go on.
    """
    recipe.check()
    out = Path(out)
    first, again = is_first_process(), started_again()
    if again and has_checkpoint(out):
        resume = out
    if resume is not None and _ended_too_soon(Path(resume)):
        if progress and first:
            print(f"{resume} has no checkpoint yet: beginning anew", flush=True)
        again = again or _is_in(Path(resume), out)
        resume = None
    if first and not again and not (resume is not None and _is_in(Path(resume), out)):
        _require_free(out)
    train_set, val_set = PackedDataset(data, "train"), PackedDataset(data, "val")
    _require_trainable(train_set, recipe)
    pl.seed_everything(recipe.seed, verbose=False)
    model = fresh_model(recipe, train_set)
    if progress and first:
        print(f"{len(train_set):,} images of {model.num_classes} classes, {len(val_set):,} to validate on", flush=True)
    require_fit(model, train_set)
    require_fit(model, val_set)
    try:
        path, checkpoint = open_checkpoint(resume, model, recipe, train_set, allow_changes) if resume else (None, None)
    except RunComplete:
        # A run may end after its last checkpoint and before its weights are written, or a job be started once more.
        if first and (out / LAST).exists() and not (out / WEIGHTS).exists():
            _finish_folder(out, recipe)
        raise
    images = fingerprint(train_set)
    task = TrainingTask(model, recipe, out, images)
    other_data = checkpoint is not None and checkpoint["gmsop"]["data"] != images
    writer = CheckpointWriter(out, recipe.checkpoint_every, other_data)
    slurm = SLURMEnvironment(auto_requeue=False) if SLURMEnvironment.detect() else None  # `Signals` does it
    callbacks: list[Callback] = [writer, Signals(writer, slurm)]
    if recipe.ema_decay:
        callbacks.append(Averaging(decay=recipe.ema_decay))
    if progress:
        callbacks.append(EpochLines())
    trainer = make_trainer(
        progress,
        callbacks,
        max_epochs=recipe.total_epochs,
        precision=recipe.precision,
        accumulate_grad_batches=recipe.accumulate,
        sync_batchnorm=recipe.sync_batchnorm,
        devices=devices,
        num_nodes=num_nodes,
        accelerator=accelerator,
        plugins=[CheckpointFiles(), *([slurm] if slurm and not by_torchrun() else [])],
        logger=make_loggers(out, recipe, wandb, checkpoint["global_step"] if checkpoint else 0),
        log_every_n_steps=50,
    )
    ranks = trainer.world_size
    _require_possible(recipe, ranks, trainer.strategy.root_device)
    require_share(val_set, ranks)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    if recipe.compile:
        model.compile()
    train_batches, val_batches = _loaders(recipe, train_set, val_set, trainer)
    if checkpoint is not None:
        require_same_passes(checkpoint, len(train_batches))
        order: Any = train_batches.sampler
        order.enter(checkpoint["gmsop"]["epoch"], checkpoint["gmsop"]["images"] // ranks)
        if progress and first:
            print(where_it_goes_on(checkpoint, ranks), flush=True)
    if first:
        _begin_folder(out, recipe, Path(data), ranks, path, checkpoint, wandb)
    _fit(trainer, task, train_batches, val_batches, path)
    if trainer.is_global_zero:
        _finish_folder(out, recipe)
    parameters = sum(p.numel() for p in model.parameters())
    return Run(out, task.result, writer.best_top1_error, writer.best_epoch + 1, _seconds(out), parameters)


def _loaders(recipe: Recipe, train_set: PackedDataset, val_set: PackedDataset, trainer: pl.Trainer) -> Any:
    ranks, rank, device = trainer.world_size, trainer.global_rank, trainer.strategy.root_device
    share = recipe.batch_size // ranks // recipe.accumulate
    mirrored, workers = recipe.flip == "both", recipe.num_workers
    return (
        train_loader(train_set, share, recipe.seed, mirrored, workers, ranks, rank, recipe.loader, device),
        val_loader(val_set, share, workers, ranks, rank, recipe.loader, device),
    )


def _begin_folder(
    out: Path,
    recipe: Recipe,
    data: Path,
    ranks: int,
    path: Path | None,
    checkpoint: dict[str, Any] | None,
    wandb: str | None,
) -> None:
    with writing(out / "recipe.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False))
    clear_away(out)
    resumed = None
    if checkpoint is not None and path is not None:
        take_along(path, checkpoint, out)
        go_on_from(path, out)
        (out / WEIGHTS).unlink(missing_ok=True)  # of a run that had ended; best.ckpt has the same weights
        write_validation(out)
        resumed = {"step": checkpoint["global_step"], "checkpoint": str(path)}
    for file in (out / "metrics.csv", out / TIMING):
        if aside := set_aside_damaged(file):
            warn(f"{file} is damaged: what it says of earlier epochs is in {aside}, if anywhere")
    note_start(out / "environment.json", data=str(data.resolve()), processes=ranks, resumed=resumed, wandb=wandb)


def _finish_folder(out: Path, recipe: Recipe) -> None:
    if not (out / BEST).exists():
        raise WriteError(f"no checkpoint of the run in {out} could be written: there is nothing to keep")
    save_model(load_model(out / BEST), out / WEIGHTS)
    write_validation(out)
    try:
        plot_curves({recipe.model: out / "metrics.csv"}, out / "curves.png")
    except (OSError, DataError) as error:  # a picture is not worth failing for
        warn(str(error))


def _fit(trainer: pl.Trainer, task: TrainingTask, train_batches: Any, val_batches: Any, path: Path | None) -> None:
    out = task.folder
    assert out is not None
    try:
        trainer.fit(task, train_batches, val_batches, ckpt_path=path, weights_only=True)
    except Stop as stop:
        raise Interrupted(stop.signum, _hint(out)) from None
    except SystemExit:  # how Lightning ends after a Ctrl-C that did not wait for the end of a step
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has switched it off
        raise Interrupted(signal.SIGINT, _hint(out)) from None


def _seconds(out: Path) -> float:
    """Of all starts."""
    try:
        return total_seconds(read_metrics(out / TIMING))
    except (OSError, DataError):  # another machine's disk, or a full one
        return 0.0


def _hint(out: Path) -> str:
    return f"go on with: gmsop train --resume {out}" if (out / LAST).exists() else "there is no checkpoint yet"


def started_again() -> bool:
    """Whether Slurm has started this job, or torchrun this process, before."""
    return any(int(os.environ.get(f"{who}_RESTART_COUNT") or 0) > 0 for who in ("SLURM", "TORCHELASTIC"))


def _ended_too_soon(folder: Path) -> bool:
    """Whether it is the folder of a run that has no checkpoint yet."""
    return (folder / "recipe.yaml").exists() and not has_checkpoint(folder)


def _is_in(resume: Path, out: Path) -> bool:
    return out.resolve() in (resume.resolve(), resume.parent.resolve())


def _require_free(out: Path) -> None:
    """Refuse a folder whose files a run would replace. A run that ended before its first epoch left none."""
    if has_checkpoint(out) or (_ended_too_soon(out) and (out / "metrics.csv").exists()):
        raise ConfigError(f"{out} already holds a run; choose another --out, or go on with --resume {out}")
    if found := [name for name in ("metrics.csv", WEIGHTS) if (out / name).exists()]:
        raise ConfigError(f"{out} already holds {', '.join(found)}; choose another --out")


def _require_trainable(dataset: PackedDataset, recipe: Recipe) -> None:
    if len(dataset) < 2:
        raise DataError(f"{dataset.path}: {len(dataset)} images to train on; BatchNorm needs at least two")
    if dataset.image_size != recipe.image_size:
        raise DataError(
            f"{dataset.path} holds images of {dataset.image_size} pixels, the recipe is for {recipe.image_size}; "
            f"pass --image_size {dataset.image_size} to train on them all the same"
        )


def _require_possible(recipe: Recipe, ranks: int, device: torch.device) -> None:
    """Refuse what this machine cannot do."""
    size, passes = recipe.batch_size, ranks * recipe.accumulate
    if size % passes or size // passes < 2:
        near = [b for b in (size // passes * passes, -(-size // passes) * passes) if b >= 2 * passes] or [2 * passes]
        fitting = [n for n in range(1, ranks) if size % (n * recipe.accumulate) == 0]
        raise ConfigError(
            f"batch_size {size} cannot be shared equally, two images or more each, by {ranks} devices"
            + (f" in {recipe.accumulate} passes" if recipe.accumulate > 1 else "")
            + f": pass --batch_size {' or '.join(map(str, dict.fromkeys(near)))}, or use {max(fitting)} of the devices"
        )
    if recipe.sync_batchnorm and device.type != "cuda":
        raise ConfigError("recipe: sync_batchnorm needs CUDA devices: PyTorch has it for no others")
    if recipe.precision == "16-mixed" and device.type == "cpu":
        raise ConfigError(
            "recipe: precision 16-mixed needs a GPU: on a CPU PyTorch takes a hundred times longer for a float16 "
            "convolution's gradient; there is bf16-mixed"
        )
