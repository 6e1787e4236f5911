"""To go on with a run, two questions are answered: is the checkpoint of this run, and where in the data was it?"""

import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from gmsop.engine.messages import warn
from gmsop.errors import CheckpointError, ConfigError, DataError, GmsopError
from gmsop.models.classifier import PooledClassifier
from gmsop.runs.metrics import Epochs, read_metrics, read_timing, write_metrics
from gmsop.training.checkpoint_schema import wrong_for
from gmsop.training.checkpoints import BEST, epochs_of, find_checkpoint, read_whole
from gmsop.training.clock import TIMING
from gmsop.training.optimizer import create_optimizer
from gmsop.training.recipe import Recipe
from gmsop.utils.files import write_error, writing
from gmsop.weights.model_file import spec_of

FREE = ("num_workers", "loader", "checkpoint_every")
"""Keys of a recipe that may differ when a run goes on: they change no batch."""

PER_EPOCH = ("batch_size", "accumulate", "flip", "the data")
"""Keys that decide how many passes an epoch has, and so may only change between epochs."""


class RunComplete(ConfigError):  # noqa: N818
    """There is nothing left to train."""


def open_checkpoint(
    resume: str | Path, model: PooledClassifier, recipe: Recipe, images: str, allow_changes: bool
) -> tuple[Path, dict[str, Any]]:
    """Return the checkpoint to go on from, and its content.

    Args:
        resume: a run folder, of which the newest whole checkpoint is taken, or a `.ckpt` file.
        images: fingerprint of the training images.
        allow_changes: accept another recipe and other data.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or of another model.
        RunComplete: the run has done all its epochs.
        ConfigError: the recipe or the data are others; all differences are listed.
    """
    path = find_checkpoint(Path(resume)) if Path(resume).is_dir() else Path(resume)
    checkpoint = read_whole(path)
    saved = checkpoint["gmsop"]
    if other := _differences(path, saved["model"], model):
        raise CheckpointError(f"{path}: another model ({'; '.join(other)})")
    before, now = _recipe_in(path, saved).to_dict(), recipe.to_dict()
    changed = {k: f"{before[k]} -> {now[k]}" for k in now if now[k] != before[k] and k not in FREE}
    if saved["data"] != images:
        changed["the data"] = "another set than the run was trained on"
    listed = "; ".join(f"{key} {change}" for key, change in changed.items())
    if changed and not allow_changes:
        raise ConfigError(
            f"{path}: a run is resumed by its own recipe, but {listed}. To change it on purpose: --allow_changes"
        )
    if saved["images"] and (fixed := [key for key in changed if key in PER_EPOCH]):
        raise ConfigError(f"{path} is from within an epoch, where {', '.join(fixed)} cannot change ({listed})")
    if before["ema_decay"] and not recipe.ema_decay:
        raise ConfigError(f"{path}: ema_decay can be changed, but not switched off: the run has two sets of weights")
    components = 0 if model.gate is None else model.gate.num_components
    same_optimizer = before["optimizer"] == now["optimizer"]
    if same_optimizer and (wrong := wrong_for(checkpoint, create_optimizer(model, recipe), components)):
        raise CheckpointError(f"{path}: damaged, or of another version: {wrong}")
    if saved["epoch"] >= recipe.total_epochs:
        raise RunComplete(f"{path}: the run is complete, all {recipe.total_epochs} epochs are done")
    return path, checkpoint


def _recipe_in(path: Path, saved: dict[str, Any]) -> Recipe:
    try:
        recipe = Recipe.from_dict(saved["recipe"])
        recipe.check()
    except GmsopError as error:
        raise CheckpointError(f"{path}: its recipe cannot be ({error})") from error
    return recipe


def _differences(path: Path, description: dict[str, Any], model: PooledClassifier) -> list[str]:
    """Return in words how the model of a checkpoint differs from the one that is to be trained."""
    assert model.spec is not None
    try:
        found, wanted = spec_of(description), model.spec
    except (GmsopError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: the description of its model is not one of gmsop's ({error})") from error
    if found.name != wanted.name:
        return [f"name {found.name}, the recipe's {wanted.name}"]
    of_data = [f"num_classes {found.num_classes}, the data's {wanted.num_classes}"]
    options = found.differences(wanted).items()
    of_recipe = [f"{name} {value}, the recipe's {wanted.options[name]}" for name, value in options]
    return (of_data if found.num_classes != wanted.num_classes else []) + of_recipe


def rows_before(checkpoint: dict[str, Any], file: Path) -> Epochs:
    """Return the rows of `metrics.csv` or `timing.csv` up to a checkpoint: its own, or an older version's of the file.

    Returns:
        One row for each epoch before the checkpoint, and none after it.

    Raises:
        CheckpointError: nobody knows the rows of `metrics.csv`.
    """
    saved = checkpoint["gmsop"]
    if "rows" in saved:
        return {epoch: dict(row) for epoch, row in saved["rows"].get(file.name, {}).items()}
    try:
        rows = read_metrics(file)
    except (OSError, DataError):
        rows = {}
    if file.name == TIMING:  # an epoch of which nobody knows the time has an empty row
        known = rows if saved["images"] else {epoch: row for epoch, row in rows.items() if epoch < saved["epoch"]}
        empty: Epochs = {epoch: {} for epoch in range(saved["epoch"])}
        return empty | {epoch: row for epoch, row in known.items() if epoch <= saved["epoch"]}
    if len(rows) < saved["epoch"]:
        raise CheckpointError(
            f"{file}: missing or damaged, and the checkpoint is of an older version, which does not know its rows"
        )
    return {epoch: row for epoch, row in rows.items() if epoch < saved["epoch"]}


def mend_rows(checkpoint: dict[str, Any], file: Path) -> None:
    """Write the rows of a CSV file that is missing, damaged or changed again, from the checkpoint, with a warning.

    Raises:
        CheckpointError: nobody knows the rows.
        WriteError: no space, no permission.
    """
    wanted = rows_before(checkpoint, file)
    try:
        found = read_timing(file) if file.name == TIMING else read_metrics(file)
    except FileNotFoundError:
        found = {}
    except (OSError, DataError) as error:
        aside = file.with_name(f"{file.stem}-damaged{file.suffix}")
        try:
            file.replace(aside)
        except OSError as reason:
            raise write_error(file, reason) from reason
        warn(f"{error}: kept as {aside.name}; its rows are written again, as far as the checkpoint knows them")
        write_metrics(file, wanted)
        return
    done = {epoch: row for epoch, row in found.items() if epoch < checkpoint["gmsop"]["epoch"]}
    if done != {epoch: row for epoch, row in wanted.items() if epoch < checkpoint["gmsop"]["epoch"]}:
        warn(f"{file}: other rows than the run's checkpoint knows; they are written again from it")
        write_metrics(file, wanted)


def take_along(path: Path, checkpoint: dict[str, Any], out: Path) -> None:
    """Copy what the run's files tell of the epochs before `checkpoint`, if the run goes on in another folder.

    Raises:
        WriteError: no space, no permission.
    """
    source = path.parent
    if source.resolve() == out.resolve():
        return
    names = ["metrics.csv", "timing.csv"]
    if epochs_of(source / BEST) <= checkpoint["gmsop"]["epoch"]:  # else the next epoch counts as the best so far
        names += [BEST, "validation.npz"]
    for name in names:
        if (source / name).exists() and not (out / name).exists():
            with writing(out / name) as temporary:
                shutil.copyfile(source / name, temporary)


def require_same_passes(checkpoint: dict[str, Any], passes: int) -> None:
    """Refuse to go on inside an epoch that has another number of passes per process than when it began.

    On another number of processes the batches may come out differently, with other images left over.

    Raises:
        ConfigError: the number is another.
    """
    saved = checkpoint["gmsop"]
    if saved["images"] and saved.get("passes", passes) != passes:
        raise ConfigError(
            f"the checkpoint is from within an epoch of {saved['passes']} batches per process; on this number of "
            f"processes it has {passes}. Go on with {saved['world_size']}, or from a checkpoint between epochs"
        )


def require_same_start(trainer: pl.Trainer, device: torch.device) -> None:
    """Refuse to start unless all ranks are at the same step. Every rank must call it.

    Raises:
        ConfigError: they are not, which can be since each machine looks for a checkpoint on its own disk.
    """
    if trainer.world_size == 1:
        return
    first = torch.tensor([trainer.current_epoch, trainer.global_step], device=device)
    last = first.clone()
    torch.distributed.all_reduce(first, torch.distributed.ReduceOp.MIN)
    torch.distributed.all_reduce(last, torch.distributed.ReduceOp.MAX)
    if not torch.equal(first, last):
        raise ConfigError(
            f"some processes begin at step {first[1]}, others at step {last[1]}: all machines must find the same "
            "checkpoint, on a disk that they share or as a copy at the same place"
        )


def where_it_goes_on(checkpoint: dict[str, Any], ranks: int) -> str:
    """Return in words where a run goes on, and what is not as it was."""
    saved = checkpoint["gmsop"]
    place = f"epoch {saved['epoch'] + 1}" + (f", after {saved['images']:,} images of it" if saved["images"] else "")
    text = f"going on from step {checkpoint['global_step']:,} ({place})"
    if saved["world_size"] != ranks:
        text += (
            f", on {ranks} process{'es' if ranks > 1 else ''} where there were {saved['world_size']}: the same images "
            "in the same order, but other random flips, noise and BatchNorm statistics"
        )
    return text
