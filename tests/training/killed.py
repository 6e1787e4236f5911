"""Runs that come to an end: each function trains in this process, which dies, or is told to stop, at one moment."""

import os
import resource
import signal
import sys
from pathlib import Path

import gmsop.training.checkpoints as checkpoints
from gmsop.cli import main
from gmsop.training.recipe import Recipe
from gmsop.training.run import train
from gmsop.training.task import TrainingTask


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_step(epoch: int, index: int) -> None:
    original = TrainingTask.on_train_batch_start

    def hook(task, batch, i):
        if (task.current_epoch, i) == (epoch, index):
            die()
        original(task, batch, i)

    TrainingTask.on_train_batch_start = hook


def while_validating(epoch: int) -> None:
    original = TrainingTask.validation_step

    def hook(task, batch, i):
        if task.current_epoch == epoch:
            die()
        original(task, batch, i)

    TrainingTask.validation_step = hook


def while_writing(number: int) -> None:
    """Half of the checkpoint is on the disk."""
    original, count = checkpoints._write, [0]

    def write(checkpoint, path: Path) -> None:
        original(checkpoint, path)
        count[0] += 1
        if count[0] == number:
            os.truncate(path, path.stat().st_size // 2)
            die()

    checkpoints._write = write


def while_renaming(number: int) -> None:
    """The new checkpoint is written, and the old one still has its name."""
    original, count = checkpoints._link, [0]

    def link(source: Path, target: Path) -> None:
        original(source, target)
        count[0] += target.name == "previous.ckpt"
        if count[0] == number:
            die()

    checkpoints._link = link


def before_validation_file(number: int) -> None:
    """The best epoch's checkpoint has its name, and what was counted in that epoch has no file of its own yet."""
    original, count = checkpoints.write_validation, [0]

    def write(folder: Path) -> None:
        count[0] += 1
        if count[0] == number:
            die()
        original(folder)

    checkpoints.write_validation = write


def train_until(recipe: Recipe, data: Path, out: Path, moment: str, *numbers: int) -> None:
    """Train, or go on with what is there, and die at the moment."""
    globals()[moment](*numbers)
    train(recipe, data, out, out if out.exists() else None)


def train_on_a_full_disk(recipe: Recipe, data: Path, out: Path) -> None:
    """In the second epoch no file can grow beyond 300 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    begin = TrainingTask.on_train_epoch_start

    def fill(task):
        begin(task)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000 if task.current_epoch == 1 else -1, -1))

    TrainingTask.on_train_epoch_start = fill
    run = train(recipe, data, out)
    print("done", run.result.images)


def train_in_a_group(words: list[str], number: int) -> None:
    """The signal reaches all processes of the run, those that read images, too, as from a terminal or from Slurm."""
    os.setsid()
    original = TrainingTask.training_step

    def step(task, batch, index):
        if (task.current_epoch, index) == (1, 1):  # after a validation, which has processes of its own
            os.killpg(0, number)
        return original(task, batch, index)

    TrainingTask.training_step = step
    sys.exit(main(words))


def train_as_a_slurm_job(environment: dict[str, str], words: list[str]) -> None:
    """Slurm says, in the first start's second step, that it will take the machine away."""
    os.environ.update(environment)
    original = TrainingTask.training_step

    def step(task, batch, index):
        if (task.current_epoch, index) == (0, 1) and "SLURM_RESTART_COUNT" not in os.environ:
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGTERM)  # which Slurm may send soon after
        return original(task, batch, index)

    TrainingTask.training_step = step
    sys.exit(main(words))
