"""The numbers of a run go to TensorBoard besides `metrics.csv`, and to Weights & Biases when asked."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from gmsop.engine.messages import warn
from gmsop.errors import ConfigError
from gmsop.training.recipe import Recipe


class _PatientTensorBoard(TensorBoardLogger):
    """Log to TensorBoard, but stop with a warning when its files cannot be written: a full disk must not end a run."""

    _broken = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._try(super().log_metrics, metrics, step)

    @rank_zero_only
    def save(self) -> None:
        self._try(super().save)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._try(super().finalize, status)

    def _try(self, action: Any, *args: Any) -> None:
        if self._broken:
            return
        try:
            action(*args)
        except OSError as error:
            self._broken = True
            warn(f"TensorBoard's files cannot be written any more ({error.strerror or error}); the run goes on")


def make_loggers(folder: Path, recipe: Recipe, wandb: str | None, step: int) -> list[Logger]:
    """Return the loggers: TensorBoard in `folder`, and the Weights & Biases project `wandb` if it is given.

    Args:
        step: where the run goes on. TensorBoard forgets what was logged from there on, W&B goes on with its run.

    Raises:
        ConfigError: `wandb` is given, but the package is not installed.
    """
    loggers: list[Logger] = [_PatientTensorBoard(folder, name="", version="", purge_step=step)]
    if wandb:
        if find_spec("wandb") is None:
            raise ConfigError("--wandb needs the package of that name: pip install wandb")
        run = _wandb_run(folder) if step else None
        loggers.append(WandbLogger(name=folder.name, id=run, project=wandb, save_dir=folder, config=recipe.to_dict()))
    return loggers


def _wandb_run(folder: Path) -> str | None:
    """Return the id of the W&B run last logged from `folder`, the end of the name that W&B's own link points to."""
    link = folder / "wandb" / "latest-run"
    return link.readlink().name.rpartition("-")[2] if link.is_symlink() else None
