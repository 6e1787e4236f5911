"""The plan of a run says what is trained on what, into which folder, from which checkpoint; all of it is checked."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from gmsop.data import PackedDataset
from gmsop.engine.messages import is_first_process
from gmsop.errors import ConfigError, DataError
from gmsop.evaluation.error_rates import require_fit
from gmsop.models import PooledClassifier
from gmsop.runs.environment import read_starts
from gmsop.training.checkpoints import LAST, clear_away, has_checkpoint
from gmsop.training.clock import TIMING
from gmsop.training.model import fresh_model
from gmsop.training.optimizer import create_optimizer
from gmsop.training.recipe import Recipe
from gmsop.training.resume import RunComplete, fingerprint, open_checkpoint
from gmsop.training.run_files import DESCRIPTION, WEIGHTS, finish_folder, is_finished


@dataclass(frozen=True)
class Plan:
    """A plan holds what a run will do."""

    recipe: Recipe
    out: Path
    """The run's folder."""
    train_set: PackedDataset
    val_set: PackedDataset
    model: PooledClassifier
    """A fresh model, as the recipe and the set ask for it."""
    path: Path | None
    """The checkpoint to go on from."""
    checkpoint: dict[str, Any] | None
    """The checkpoint's content."""
    images: str
    """Fingerprint of the training set."""

    @property
    def has_other_data(self) -> bool:
        """Return whether the run goes on with other images than before."""
        return self.checkpoint is not None and bool(self.checkpoint["gmsop"]["data"] != self.images)


def make_plan(recipe: Recipe, data: Path, out: Path, resume: Path | None, allow_changes: bool, show: bool) -> Plan:
    """Check everything that can be known before there is a trainer, and seed the run.

    Args:
        show: print what the run is trained on.

    Raises:
        ConfigError, RunComplete, DataError, CheckpointError, WriteError: see `gmsop.training.run.train`.
    """
    recipe.check()
    first = is_first_process()
    resume = _where_to_go_on(out, resume, show)
    train_set, val_set = PackedDataset(data, "train"), PackedDataset(data, "val")
    _require_trainable(train_set, recipe)
    pl.seed_everything(recipe.seed, verbose=False)
    model = fresh_model(recipe, train_set)
    create_optimizer(model, recipe)  # so that what it refuses shows before the folder is begun
    if show:
        print(f"{len(train_set):,} images of {model.num_classes} classes, {len(val_set):,} to validate on", flush=True)
    require_fit(model, train_set)
    require_fit(model, val_set)
    try:
        path, checkpoint = open_checkpoint(resume, model, recipe, train_set, allow_changes) if resume else (None, None)
    except RunComplete:
        # A run may end after its last checkpoint and before its weights are written, or a job be started once more.
        if first and (out / LAST).exists():
            clear_away(out)
            if not is_finished(out):
                finish_folder(out, recipe)
        raise
    return Plan(recipe, out, train_set, val_set, model, path, checkpoint, fingerprint(train_set))


def _where_to_go_on(out: Path, resume: Path | None, show: bool) -> Path | None:
    """Return the folder or file to go on from: `resume`; `out` if the job was started again; None to begin anew.

    Raises:
        ConfigError: `out` holds a run that would be replaced.
    """
    again = started_again()
    if again and has_checkpoint(out):
        resume = out
    if resume is not None and _ended_too_soon(resume):
        if show:
            print(f"{resume} has no checkpoint yet: beginning anew", flush=True)
        again = again or _is_in(resume, out)
        resume = None
    if is_first_process() and not again and not (resume is not None and _is_in(resume, out)):
        _require_free(out)
    return resume


def started_again() -> bool:
    """Return whether Slurm has started this job, or torchrun this process, before."""
    counts = [os.environ.get(f"{who}_RESTART_COUNT", "") for who in ("SLURM", "TORCHELASTIC")]
    return any(count.isdecimal() and int(count) > 0 for count in counts)


def _ended_too_soon(folder: Path) -> bool:
    """Return whether it is the folder of a run that has no checkpoint yet."""
    return (folder / "recipe.yaml").exists() and not has_checkpoint(folder)


def _is_in(resume: Path, out: Path) -> bool:
    return out.resolve() in (resume.resolve(), resume.parent.resolve())


def _require_free(out: Path) -> None:
    """Refuse a folder whose files a run would replace. A run that ended before its first epoch left its own."""
    if has_checkpoint(out) or (_ended_too_soon(out) and (out / "metrics.csv").exists()):
        raise ConfigError(f"{out} already holds a run; choose another --out, or go on with --resume {out}")
    names = ["metrics.csv", WEIGHTS]
    if not read_starts(out / "environment.json"):  # no run has begun here
        names += ["recipe.yaml", "environment.json", TIMING, "hparams.yaml", "validation.npz", *DESCRIPTION]
    links = [child.name for child in out.iterdir() if child.is_symlink()] if out.is_dir() else []
    if found := [name for name in names if (out / name).exists()] + links:
        raise ConfigError(f"{out} already holds {', '.join(found)}; choose another --out")


def _require_trainable(dataset: PackedDataset, recipe: Recipe) -> None:
    if len(dataset) < 2:
        raise DataError(f"{dataset.path}: {len(dataset)} images to train on; BatchNorm needs at least two")
    if dataset.image_size != recipe.image_size:
        raise DataError(
            f"{dataset.path} holds images of {dataset.image_size} pixels, the recipe is for {recipe.image_size}; "
            f"pass --image_size {dataset.image_size} to train on them all the same"
        )
