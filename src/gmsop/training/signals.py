"""SIGINT, SIGTERM, a lost terminal's SIGHUP, and Slurm's announcement of a requeue wait for the end of the step."""

import os
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint

from gmsop.engine.messages import say
from gmsop.training.checkpoints import CheckpointWriter


class Interrupted(KeyboardInterrupt):
    """This says that a run was told to stop, and has stopped in good order."""

    def __init__(self, signum: int, hint: str = "") -> None:
        super().__init__(hint)
        self.signum = signum


class Stop(Exception):  # noqa: N818 (no error)
    """This leaves Lightning's loops. A KeyboardInterrupt would not do: Lightning makes it end the process."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


class Signals(Checkpoint):  # so that Lightning calls it after the callback that writes the epoch's checkpoint
    """Save a checkpoint and end the run when a signal has come, on all ranks at the same step.

    A validation is finished first, for the epoch that it ends. The second Ctrl-C ends the process at once. Under Slurm
    the requeue signal (SIGUSR1, or what SLURMEnvironment says) puts the job back into the queue as well.
    """

    def __init__(self, writer: CheckpointWriter, environment: SLURMEnvironment | None) -> None:
        self.writer = writer
        self.requeue = getattr(environment, "requeue_signal", None) or signal.SIGUSR1 if environment else None
        self.received = 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        mine = [signal.SIGINT, signal.SIGTERM, *([self.requeue] if self.requeue else [])]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup sets it
            mine.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._note) for number in mine}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received != self.requeue or not self.requeue:  # Slurm may send a SIGTERM after it
            self.received = number
        say(f"{signal.Signals(number).name}: saving a checkpoint after this step; a second Ctrl-C does not wait")

    def on_train_batch_end(self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, index: int) -> None:
        if self.writer.between_steps(trainer, index):
            self._act(trainer, saved=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            self._act(trainer, saved=True)

    def _act(self, trainer: pl.Trainer, saved: bool) -> None:
        number = self.received
        if trainer.world_size > 1:  # the launcher may have told one rank alone, or each rank something else
            urgent = bool(number) and number == self.requeue
            here = torch.tensor([number, urgent], device=trainer.strategy.root_device)
            torch.distributed.all_reduce(here, torch.distributed.ReduceOp.MAX)
            number, urgent = here.tolist()
            number = self.requeue if urgent and self.requeue else number
        if not number:
            return
        if not saved and self.writer.saved_step != trainer.global_step:  # else `previous.ckpt` would become the same
            self.writer.save_last(trainer)
        if number == self.requeue and trainer.is_global_zero:
            requeue()
        raise Stop(number)

    def teardown(self, trainer: pl.Trainer, task: pl.LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def requeue() -> None:
    """Put this Slurm job back into the queue, under the same id."""
    job = os.environ["SLURM_JOB_ID"]
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=True)
        say(f"job {job} is back in the queue")
    except (OSError, subprocess.CalledProcessError) as error:
        say(f"job {job} cannot be put back into the queue: {getattr(error, 'stderr', '') or error}")
