"""Checkpoints of a run: `last.ckpt`, `previous.ckpt` before it, and `best.ckpt`, each whole or not there at all.

They are Lightning checkpoints, with an entry `gmsop` that says whose they are and how far the run was.
"""

import math
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from gmsop.checkpoint import read_training_checkpoint
from gmsop.errors import CheckpointError
from gmsop.evaluation import Evaluation
from gmsop.files import WriteError, writing
from gmsop.training.console import warn

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class CheckpointWriter(Checkpoint):
    """Saves `last.ckpt` every so many steps and after each epoch, and `best.ckpt` by top-1 error on val.

    A checkpoint that cannot be written is warned about; training goes on, and the older ones stay.

    Args:
        every: steps of the optimiser between checkpoints within an epoch; 0: none there.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every
        self.best_top1_error, self.best_epoch = math.inf, -1

    def state_dict(self) -> dict[str, Any]:
        return {"best_top1_error": self.best_top1_error, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_top1_error, self.best_epoch = state_dict["best_top1_error"], state_dict["best_epoch"]

    def on_train_start(self, trainer: pl.Trainer, task: Any) -> None:
        if not (self.folder / BEST).exists():  # of a run that goes on in another folder
            self.best_top1_error, self.best_epoch = math.inf, -1

    def on_train_batch_end(self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, index: int) -> None:
        step = (index + 1) // trainer.accumulate_grad_batches
        if self.every and self.between_steps(trainer, index) and step % self.every == 0:
            self.save_last(trainer)

    @staticmethod
    def between_steps(trainer: pl.Trainer, index: int) -> bool:
        """Whether a checkpoint after this batch would lose no gradient, nor the validation that ends the epoch."""
        return (index + 1) % trainer.accumulate_grad_batches == 0 and index + 1 < trainer.num_training_batches

    def on_train_epoch_end(self, trainer: pl.Trainer, task: Any) -> None:
        result: Evaluation = task.result
        better = result.top1_error < self.best_top1_error
        if better:
            self.best_top1_error, self.best_epoch = result.top1_error, trainer.current_epoch
            if trainer.is_global_zero:
                _save_result(result, self.folder)
        self.save_last(trainer, better)

    def save_last(self, trainer: pl.Trainer, best: bool = False) -> None:
        trainer.save_checkpoint(self.folder / LAST, weights_only=False, storage_options={"best": best})


class CheckpointFiles(TorchCheckpointIO):
    """Writes to a temporary file that takes the old one's place when it is safely on the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            with writing(path) as temporary:
                _write(checkpoint, temporary)
                if (storage_options or {}).get("best"):
                    _link(temporary, path.with_name(BEST))
                if path.name == LAST and path.exists():
                    _link(path, path.with_name(PREVIOUS))
        except WriteError as error:  # must not be raised: it would leave the other ranks waiting
            warn(f"NO CHECKPOINT after step {checkpoint['global_step']}: {error}. Training goes on")


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # PyTorch's writer hides the operating system's error
            cause = error.__cause__ or error.__context__
            raise cause if isinstance(cause, OSError) else OSError(5, str(error)) from error
        file.flush()
        os.fsync(file.fileno())  # here, since `best.ckpt` may be linked to it next


def _link(source: Path, target: Path) -> None:
    """A second name for a file, replacing what had it; a copy where the file system has no links."""
    temporary = target.with_name(f".{target.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)


def _save_result(result: Evaluation, folder: Path) -> None:
    """`validation.npz`: the confusion matrix and the gate's use per class, of the best epoch."""
    arrays = {"confusion": result.confusion.numpy()}
    if result.usage is not None:
        arrays |= {"gate_weight": result.usage.weight.numpy(), "gate_chosen": result.usage.chosen.numpy()}
    try:
        with writing(folder / "validation.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    except WriteError as error:
        warn(str(error))


def find_checkpoint(folder: Path) -> Path:
    """The checkpoint of a run folder that is furthest on and whole. Damaged ones are warned about.

    Raises:
        CheckpointError: there is none.
    """
    found: list[tuple[int, int, Path]] = []
    damaged: list[str] = []
    for path in (folder / name for name in (LAST, PREVIOUS, BEST)):
        if not path.exists():
            continue
        try:
            place = read_whole(path)["gmsop"]
            found.append((place["epoch"], place["images"], path))
        except CheckpointError as error:
            damaged.append(str(error))
    if not found:
        raise CheckpointError("; ".join(damaged) or f"{folder}: no checkpoint to go on from")
    *_, path = max(found, key=lambda entry: entry[:2])
    for text in damaged:
        warn(f"{text}. Going on from {path}")
    return path


def read_whole(path: str | Path) -> dict[str, Any]:
    """`read_training_checkpoint`, with every byte checked.

    Raises:
        CheckpointError: missing, truncated, a checksum that differs, or not a checkpoint that can be gone on with.
    """
    checkpoint = read_training_checkpoint(path)
    with zipfile.ZipFile(path) as archive:
        if (bad := archive.testzip()) is not None:
            raise CheckpointError(f"{path}: damaged (checksum of {bad})")
    if not {"epoch", "images", "world_size", "totals", "data"} <= set(checkpoint["gmsop"]):
        raise CheckpointError(f"{path}: of an older version of gmsop: it can be evaluated, but not gone on with")
    return checkpoint
