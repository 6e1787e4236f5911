"""A training process that kills itself at a given moment: python killed.py RECIPE SET OUT MOMENT..."""

import os
import signal
import sys
from pathlib import Path

import gmsop.training.checkpoints as checkpoints
from gmsop.recipe import load_recipe
from gmsop.training import TrainingTask, train


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


if __name__ == "__main__":
    recipe, data, out, moment, *numbers = sys.argv[1:]
    globals()[moment](*map(int, numbers))
    train(load_recipe(recipe), data, out, out if Path(out, "last.ckpt").exists() else None)
