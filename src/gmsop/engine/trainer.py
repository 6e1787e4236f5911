"""Set up Lightning's Trainer as gmsop uses it: quiet, reproducible on a CPU, with a progress bar when asked."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy

from gmsop.errors import ConfigError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
LOGGER = logging.getLogger("lightning.pytorch")


@contextmanager
def settings_as_before() -> Iterator[None]:
    """Undo at the end what a Trainer, and `make_trainer`, set for the whole process.

    These settings are deterministic operation, the filters of warnings and the level of Lightning's logger.

    Deterministic operation would also fill uninitialised memory. Inside the block this is switched off: everything in
    gmsop is written before it is read, and filling it costs a training step on a CPU 5 to 15 %.
    """
    enabled = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fills, workspace = memory.fill_uninitialized_memory, os.environ.get(WORKSPACE)
    level = LOGGER.level
    memory.fill_uninitialized_memory = False
    try:
        with warnings.catch_warnings():
            yield
    finally:
        LOGGER.setLevel(level)
        memory.fill_uninitialized_memory = fills
        torch.use_deterministic_algorithms(enabled, warn_only=only_warns)
        if workspace is None:
            os.environ.pop(WORKSPACE, None)


def make_trainer(
    progress: bool,
    callbacks: list[Any] | None = None,
    devices: int | str = "auto",
    num_nodes: int = 1,
    some_unused: bool = False,
    **options: Any,
) -> Trainer:
    """Return a Trainer on whatever accelerator there is. On a CPU every operation is deterministic.

    Deterministic operation, the quiet logger and six filters of Lightning's warnings are settings of the whole process:
    see `settings_as_before`. In a process that `torchrun` has started, `torchrun` decides `devices` and `num_nodes`.

    Args:
        some_unused: parameters that learn may be left out of some steps, which several devices must be told.

    Raises:
        ConfigError: this machine does not have these devices.
    """
    if set_outside := sorted(name for name in os.environ if name.startswith("PL_TRAINER_")):
        raise ConfigError(f"{set_outside[0]} in the environment would change the run unseen by its recipe; unset it")
    devices, num_nodes = _launched(devices, num_nodes)
    LOGGER.setLevel(logging.WARNING)
    # Reading uint8 pages of a memory map costs less than passing them between processes.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*(exists and is not empty|treespec, LeafSpec).*")
    # gmsop's own loader enters an epoch where the checkpoint left it.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    # With several processes, logged values count all of them already, and strides of 1x1 weights mean nothing.
    warnings.filterwarnings("ignore", message=".*It is recommended to use `self.log.*sync_dist=True.*")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    callbacks = list(callbacks or [])
    bar = progress and sys.stdout.isatty()  # in a log file every refresh would be a line
    if bar:
        callbacks.append(_ProgressBar(leave=False))
    options.setdefault("logger", False)
    plugins = list(options.pop("plugins", []))
    if SLURMEnvironment.detect() and not by_torchrun():
        plugins.append(slurm_environment() or LightningEnvironment())
    if options.get("precision") == "16-mixed" and _on_cpu(options.get("accelerator", "auto")):
        # Lightning itself would take bfloat16 instead; PyTorch has float16 on a CPU, fast enough for evaluation.
        del options["precision"]
        plugins.append(MixedPrecision("16-mixed", "cpu"))
    try:
        trainer = Trainer(
            callbacks=callbacks,
            plugins=plugins,
            devices=devices,
            num_nodes=num_nodes,
            enable_progress_bar=bar,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            deterministic=_on_cpu(options.get("accelerator", "auto")),
            use_distributed_sampler=False,
            enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
            **options,
        )
    except (MisconfigurationException, ValueError) as error:  # no such accelerator, or too many devices
        raise ConfigError(f"this machine cannot do that: {error}") from error
    if some_unused and isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._ddp_kwargs["find_unused_parameters"] = True
    return trainer


def _on_cpu(accelerator: str) -> bool:
    return accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())


def _launched(devices: int | str, num_nodes: int) -> tuple[int | str, int]:
    """Return processes per machine and number of machines: as `torchrun` says, if it has started this process."""
    if not by_torchrun():
        return devices, num_nodes
    here, everywhere = (os.environ.get(name, "1") for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    sound = here.isdecimal() and everywhere.isdecimal() and int(here) > 0
    if not sound or int(everywhere) < int(here) or int(everywhere) % int(here):
        raise ConfigError(f"torchrun: LOCAL_WORLD_SIZE is {here!r} and WORLD_SIZE {everywhere!r}, which cannot be")
    return int(here), int(everywhere) // int(here)


def by_torchrun() -> bool:
    """Return True if `torchrun` has started this process.

    Inside a Slurm job, `torchrun`'s numbers count then, not Slurm's.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ


def slurm_environment() -> SLURMEnvironment | None:
    """Return what Slurm says of this process, if `srun` or a job of one task has started it.

    In the shell of `salloc -n 4`, or in a batch script of four tasks, Slurm's variables are those of the allocation:
    nobody has started the other three processes.

    Raises:
        ConfigError: variables that contradict one another.
    """
    tasks = os.environ.get("SLURM_NTASKS", "")
    numbers = [os.environ.get(f"SLURM_{name}", "") for name in ("PROCID", "LOCALID", "NODEID")]
    if not SLURMEnvironment.detect() or not tasks.isdecimal() or not all(number.isdecimal() for number in numbers):
        return None
    if int(tasks) > 1 and "SLURM_STEP_ID" not in os.environ:
        return None
    try:
        return SLURMEnvironment(auto_requeue=False)  # gmsop's own callback requeues
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"Slurm: {error}") from error


class _ProgressBar(TQDMProgressBar):
    """Counts epochs from 1, as the lines printed above it do, and shows the values that the task's `bar` returns."""

    def get_metrics(self, trainer: Trainer, task: Any) -> Any:
        return task.bar() if hasattr(task, "bar") else {}

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}")
