"""A run's checkpoints are `last.ckpt`, `previous.ckpt` before it, and `best.ckpt`, each whole or not there at all.

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

from gmsop.engine.messages import warn
from gmsop.errors import CheckpointError, TrainingError
from gmsop.evaluation.error_rates import Evaluation
from gmsop.training.checkpoint_schema import wrong_in
from gmsop.training.non_finite import non_finite_weights
from gmsop.utils.files import WriteError, clear_unfinished, write_error, writing
from gmsop.weights.training_file import read_training_checkpoint

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class CheckpointWriter(Checkpoint):
    """Save `last.ckpt` every so many steps and after each epoch, and `best.ckpt` by top-1 error on val.

    If a checkpoint cannot be written, there is a warning; training goes on, and the older ones stay.

    Args:
        every: steps of the optimiser between checkpoints within an epoch; 0: none there.
        other_data: the run goes on with other images than before, so the best error before does not count.
    """

    def __init__(self, folder: Path, every: int, other_data: bool = False) -> None:
        self.folder, self.every, self.other_data = folder, every, other_data
        self.best_top1_error, self.best_epoch = math.inf, -1
        self.saved_step = -1
        """Step of the optimiser after which `last.ckpt` was last to be written."""

    def state_dict(self) -> dict[str, Any]:
        return {"best_top1_error": self.best_top1_error, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_top1_error, self.best_epoch = state_dict["best_top1_error"], state_dict["best_epoch"]

    def on_train_start(self, trainer: pl.Trainer, task: Any) -> None:
        # A run that goes on in another folder may have no `best.ckpt` there. One of later epochs does not count: the
        # run went back, and has given those epochs up.
        if self.other_data or epochs_of(self.folder / BEST) > trainer.current_epoch:
            self.best_top1_error, self.best_epoch = math.inf, -1

    def on_train_batch_end(self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, index: int) -> None:
        step = (index + 1) // trainer.accumulate_grad_batches
        if self.every and self.between_steps(trainer, index) and step % self.every == 0:
            self.save_last(trainer)

    @staticmethod
    def between_steps(trainer: pl.Trainer, index: int) -> bool:
        """Return whether a checkpoint after this batch loses no gradient, nor the validation that ends the epoch."""
        return (index + 1) % trainer.accumulate_grad_batches == 0 and index + 1 < trainer.num_training_batches

    def on_train_epoch_end(self, trainer: pl.Trainer, task: Any) -> None:
        result: Evaluation = task.result
        before = self.state_dict()
        better = result.top1_error < self.best_top1_error
        if better:
            self.best_top1_error, self.best_epoch = result.top1_error, trainer.current_epoch
        written = self.save_last(trainer, better)
        if better and trainer.is_global_zero:
            if written:
                write_validation(self.folder)
            else:
                self.load_state_dict(before)

    def save_last(self, trainer: pl.Trainer, best: bool = False) -> bool:
        """Save `last.ckpt`, with `best` as `best.ckpt`, too; return False if this process had to write and could not.

        Raises:
            TrainingError: the weights are not finite: nothing good could come of them.
        """
        task: Any = trainer.lightning_module
        if name := non_finite_weights(task.model):
            raise TrainingError(
                f"after step {trainer.global_step} the weights {name} are not finite, though the loss was; "
                f"{last_good(self.folder)}. A smaller --lr is the first thing to try"
            )
        trainer.save_checkpoint(self.folder / LAST, weights_only=False, storage_options={"best": best})
        files: Any = trainer.strategy.checkpoint_io
        self.saved_step = trainer.global_step  # set even if it was not written, since the ranks must agree
        return bool(files.written)


class CheckpointFiles(TorchCheckpointIO):
    """Write to a temporary file that takes the old one's place when it is safely on the disk."""

    written = True
    """Whether the last checkpoint could be written."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path, self.written = Path(path), False
        try:
            with writing(path) as temporary:
                _write(checkpoint, temporary)
                if (storage_options or {}).get("best"):
                    _link(temporary, path.with_name(BEST))
                if path.name == LAST and path.exists():
                    _link(path, path.with_name(PREVIOUS))
            self.written = True
        except WriteError as error:  # raising it would leave the other ranks waiting
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
    """Give a file a second name, replacing what had it; make a copy where the file system has no links."""
    temporary = target.with_name(f".{target.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # where both names are of one file already, the system renames nothing


def last_good(folder: Path | None) -> str:
    """Return in words what the last good checkpoint is. None is written of weights that are not finite."""
    saved = folder and folder / LAST
    return f"the last good checkpoint is {saved}" if saved and saved.exists() else "there is no checkpoint yet"


def write_validation(folder: Path) -> None:
    """Write `validation.npz` from `best.ckpt`: its epoch, and that epoch's confusion matrix and gate use per class.

    A run killed after it wrote `best.ckpt` does this when it goes on.
    """
    try:
        checkpoint = read_whole(folder / BEST)
    except CheckpointError:
        return
    best = checkpoint["gmsop"]
    if "validation" not in best:  # an older version wrote it
        return
    arrays = {"epoch": np.array(best["epoch"] - 1)} | {name: t.numpy() for name, t in best["validation"].items()}
    try:
        with writing(folder / "validation.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
    except WriteError as error:
        warn(str(error))


def has_checkpoint(folder: Path) -> bool:
    """Return whether the folder has a checkpoint, whole or not."""
    return any((folder / name).exists() for name in (LAST, PREVIOUS, BEST))


def epochs_of(path: Path) -> float:
    """Return how many epochs were over at a checkpoint; infinity if it is not there or damaged."""
    try:
        return int(read_training_checkpoint(path)["gmsop"]["epoch"])
    except (CheckpointError, KeyError, TypeError, ValueError):
        return math.inf


def go_on_from(path: Path, out: Path) -> None:
    """Make `path` the last checkpoint of the run folder `out`, if it is one of the folder's own.

    A run that goes back to an earlier checkpoint gives up what came after it.

    Raises:
        WriteError: no space, no permission.
    """
    if path.parent.resolve() != out.resolve() or path.name == LAST:
        return
    try:
        _link(path, out / LAST)
        if path.name != PREVIOUS:
            (out / PREVIOUS).unlink(missing_ok=True)
    except OSError as error:
        raise write_error(out / LAST, error) from error


def clear_away(out: Path) -> None:
    """Remove the unfinished files in `out` of a run that was killed while it wrote."""
    clear_unfinished(out)
    for name in (LAST, PREVIOUS, BEST):
        (out / f".{name}.part").unlink(missing_ok=True)


def find_checkpoint(folder: Path) -> Path:
    """Return the newest whole checkpoint of a run folder; there is a warning about damaged ones.

    It is `last.ckpt` or, if that is damaged or missing, whichever of `previous.ckpt` and `best.ckpt` is further on.

    Raises:
        CheckpointError: there is none.
    """
    found: list[tuple[bool, int, int, Path]] = []
    damaged: list[str] = []
    for path in (folder / name for name in (LAST, PREVIOUS, BEST)):
        if not path.exists():
            continue
        try:
            place = read_whole(path)["gmsop"]
            found.append((path.name == LAST, place["epoch"], place["images"], path))
        except CheckpointError as error:
            damaged.append(str(error))
    if not found:
        raise CheckpointError("; ".join(damaged) or f"{folder}: no checkpoint to go on from")
    *_, path = max(found, key=lambda entry: entry[:3])
    for text in damaged:
        warn(f"{text}. Going on from {path}")
    return path


def read_whole(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint as `read_training_checkpoint` does, and check every byte.

    Raises:
        CheckpointError: missing, truncated, a checksum that differs, or not a checkpoint that can be gone on with.
    """
    checkpoint = read_training_checkpoint(path)
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: damaged ({error})") from error
    if bad is not None:
        raise CheckpointError(f"{path}: damaged (checksum of {bad})")
    if not {"epoch", "images", "world_size", "totals", "data"} <= set(checkpoint["gmsop"]):
        raise CheckpointError(f"{path}: of an older version of gmsop: it can be evaluated, but not gone on with")
    if wrong := wrong_in(checkpoint):
        raise CheckpointError(f"{path}: damaged: {wrong} is not what a run writes")
    return checkpoint
