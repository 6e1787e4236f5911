"""The plan of a run says what is trained on what, into which folder, from which checkpoint; all of it is checked."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import nn

from gmsop.data.data_options import DataOptions
from gmsop.engine.messages import is_first_process
from gmsop.errors import ConfigError
from gmsop.evaluation.error_rates import require_fit
from gmsop.models import PooledClassifier
from gmsop.runs.environment import read_starts
from gmsop.training.checkpoints import LAST, clear_away, has_checkpoint
from gmsop.training.clock import TIMING
from gmsop.training.image_sets import ImageSet, find_sets, make_sets
from gmsop.training.model import build_model
from gmsop.training.optimizer import create_optimizer
from gmsop.training.parameter_groups import freeze
from gmsop.training.recipe import Recipe
from gmsop.training.resume import RunComplete, open_checkpoint
from gmsop.training.run_files import DESCRIPTION, WEIGHTS, finish_folder, is_finished
from gmsop.training.starting import INPUT, Start


@dataclass(frozen=True)
class Plan:
    """A plan holds what a run will do."""

    recipe: Recipe
    out: Path
    """The run's folder."""
    train_set: ImageSet
    val_set: ImageSet
    model: PooledClassifier
    """A fresh model, as the recipe and the set ask for it."""
    path: Path | None
    """The checkpoint to go on from."""
    checkpoint: dict[str, Any] | None
    """The checkpoint's content."""
    images: str
    """Fingerprint of the training set."""
    start: Start | None
    """What the model starts from, unless it goes on."""
    held_out: list[str]
    """Names of the training images that were held out to validate on."""
    frozen: list[nn.Parameter]
    """What does not learn, at first or at all."""

    @property
    def has_other_data(self) -> bool:
        """Return whether the run goes on with other images than before."""
        return self.checkpoint is not None and bool(self.checkpoint["gmsop"]["data"] != self.images)


def make_plan(
    recipe: Recipe,
    data: str,
    out: Path,
    resume: Path | None,
    allow_changes: bool,
    show: bool,
    options: DataOptions | None = None,
) -> Plan:
    """Check everything that can be known before there is a trainer, and seed the run.

    Args:
        options: where images lie, and which of them are validated on.
        show: print what the run is trained on.

    Raises:
        ConfigError, RunComplete, DataError, CheckpointError, WriteError: see `gmsop.training.run.train`.
    """
    recipe.check()
    first = is_first_process()
    resume = _where_to_go_on(out, resume, show)
    found = find_sets(recipe, data, options or DataOptions(), show)
    pl.seed_everything(recipe.seed, verbose=False)
    model, start = build_model(recipe, found.class_names, found.meta, with_weights=resume is None)
    frozen = freeze(model, recipe)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError("recipe: freeze leaves nothing to learn")
    create_optimizer(model, recipe)  # so that what it refuses shows before the folder is begun
    train_set, val_set = make_sets(found, recipe, model.pretrained_cfg)
    if show:
        held_out = ", held out of them" if found.held_out else ""
        print(
            f"{len(train_set):,} images of {model.num_classes} classes, {len(val_set):,} to validate on{held_out}",
            flush=True,
        )
        for line in start.lines if start is not None else []:
            print(f"starting from {start.source}: {line}", flush=True)  # type: ignore[union-attr]
    require_fit(model, train_set)
    require_fit(model, val_set)
    try:
        path, checkpoint = (
            open_checkpoint(resume, model, recipe, found.fingerprint, allow_changes) if resume else (None, None)
        )
    except RunComplete:
        # A run may end after its last checkpoint and before its weights are written, or a job be started once more.
        if first and (out / LAST).exists():
            clear_away(out)
            if not is_finished(out):
                finish_folder(out, recipe)
        raise
    if checkpoint is not None and recipe.has_weights:
        _see_as_before(model, checkpoint)
        train_set, val_set = make_sets(found, recipe, model.pretrained_cfg)
    return Plan(
        recipe, out, train_set, val_set, model, path, checkpoint, found.fingerprint, start, found.held_out,
        [p for _, p in frozen],
    )  # fmt: skip


def _see_as_before(model: PooledClassifier, checkpoint: dict[str, Any]) -> None:
    """Prepare images as the run's starting weights expected it, which only its checkpoint tells."""
    said = checkpoint["gmsop"]["model"].get("input", {})
    cfg = {key: said[key] for key in INPUT if key in said}
    model.pretrained_cfg.update({k: tuple(v) if isinstance(v, list) else v for k, v in cfg.items()})


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
