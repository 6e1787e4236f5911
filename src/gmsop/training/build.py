"""`build` makes what a plan needs to be carried out: the trainer with its callbacks, the task, the loaders."""

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from gmsop.data import train_loader, val_loader
from gmsop.data.photographs import Photographs
from gmsop.engine.trainer import make_trainer, slurm_environment
from gmsop.errors import ConfigError
from gmsop.evaluation.error_rates import require_share
from gmsop.training.averaging import Averaging
from gmsop.training.checkpoints import CheckpointFiles, CheckpointWriter
from gmsop.training.early_warnings import EarlyWarnings
from gmsop.training.epoch_lines import EpochLines
from gmsop.training.first_look import prepare_start
from gmsop.training.image_sets import workers_of
from gmsop.training.loggers import make_loggers
from gmsop.training.plan import Plan
from gmsop.training.recipe import Recipe
from gmsop.training.resume import require_same_passes
from gmsop.training.signals import Signals
from gmsop.training.task import TrainingTask


@dataclass(frozen=True)
class Machines:
    """This says where a run runs."""

    devices: int | str = "auto"
    """Processes on this machine, one per GPU (or CPU process); "auto": all GPUs, or one CPU process."""
    num_nodes: int = 1
    """Machines."""
    accelerator: str = "auto"
    """"cpu", "cuda", ... as Lightning names them."""


@dataclass(frozen=True)
class Built:
    """This is a run that is ready to start."""

    trainer: pl.Trainer
    task: TrainingTask
    writer: CheckpointWriter
    train_batches: Any
    val_batches: Any


def build(plan: Plan, machines: Machines, wandb: str | None, progress: bool) -> Built:
    """Make trainer, task and loaders, and put the order of images where the plan goes on.

    Raises:
        ConfigError: the recipe cannot run on these machines.
        DataError: fewer images to validate on than there are processes.
    """
    recipe, checkpoint = plan.recipe, plan.checkpoint
    task = TrainingTask(plan.model, recipe, plan.out, plan.images, plan.frozen)
    if isinstance(plan.val_set, Photographs) and plan.val_set.on_error == "skip":
        task.skipping = plan.val_set
    writer = CheckpointWriter(plan.out, recipe.checkpoint_every, plan.has_other_data)
    callbacks: list[Callback] = [writer, Signals(writer, slurm_environment())]
    if recipe.ema_decay:
        callbacks.append(Averaging(decay=recipe.ema_decay))
    callbacks.append(EarlyWarnings())
    if progress:
        callbacks.append(EpochLines())
    trainer = make_trainer(
        progress,
        callbacks,
        max_epochs=recipe.total_epochs,
        precision=recipe.precision,
        accumulate_grad_batches=recipe.accumulate,
        sync_batchnorm=recipe.sync_batchnorm,
        devices=machines.devices,
        num_nodes=machines.num_nodes,
        accelerator=machines.accelerator,
        plugins=[CheckpointFiles()],
        logger=make_loggers(plan.out, recipe, wandb, checkpoint["global_step"] if checkpoint else 0),
        log_every_n_steps=50,
        gradient_clip_val=recipe.clip_grad_norm or None,
        some_unused=bool(recipe.unfreeze_epoch),
    )
    _require_possible(recipe, trainer.world_size, trainer.strategy.root_device)
    require_share(plan.val_set, trainer.world_size)
    if recipe.channels_last:
        plan.model.to(memory_format=torch.channels_last)
    if recipe.compile:
        plan.model.compile()
    train_batches, val_batches = _loaders(plan, trainer)
    if checkpoint is not None:
        require_same_passes(checkpoint, len(train_batches))
        order: Any = train_batches.sampler
        order.enter(checkpoint["gmsop"]["epoch"], checkpoint["gmsop"]["images"] // trainer.world_size)
        task.classifier_share = checkpoint["gmsop"].get("classifier_share")
    else:
        task.classifier_share = prepare_start(plan, trainer.strategy.root_device, train_batches)
    return Built(trainer, task, writer, train_batches, val_batches)


def _loaders(plan: Plan, trainer: pl.Trainer) -> Any:
    recipe = plan.recipe
    ranks, rank, device = trainer.world_size, trainer.global_rank, trainer.strategy.root_device
    share = recipe.batch_size // ranks // recipe.accumulate
    mirrored, workers = recipe.flip == "both", workers_of(recipe, trainer.num_devices)
    return (
        train_loader(plan.train_set, share, recipe.seed, mirrored, workers, ranks, rank, recipe.loader, device),
        val_loader(plan.val_set, share, workers, ranks, rank, recipe.loader, device),
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
