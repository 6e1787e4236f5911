"""These functions write what a run leaves in its folder at its start and at its end."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from gmsop.data.timm_sources import is_timm_source
from gmsop.engine.messages import warn
from gmsop.errors import ConfigError, DataError
from gmsop.models.hub import describe_folder
from gmsop.runs.curves import plot_curves
from gmsop.runs.environment import note_start, read_starts
from gmsop.runs.metrics import METRICS, read_metrics, read_timing, total_seconds
from gmsop.runs.run_folder import HELD_OUT
from gmsop.training.checkpoints import BEST, clear_away, go_on_from, write_validation
from gmsop.training.clock import TIMING
from gmsop.training.recipe import Recipe
from gmsop.training.resume import mend_rows, take_along
from gmsop.utils.files import WriteError, write_error, writing
from gmsop.utils.lock import Lock
from gmsop.weights.model_file import load_model, save_model

WEIGHTS = "model.safetensors"
"""Weights of the best epoch, in the folder of a run that has ended."""
DESCRIPTION = ("config.json", "README.md", "curves.png")
"""What describes the run that has ended."""


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Keep other processes from training into the folder, which is made, and removed if it stays empty.

    Raises:
        ConfigError: another process trains into it.
        WriteError: no permission, no space.
    """
    try:
        there = out.is_dir()
        out.mkdir(parents=True, exist_ok=True)
        lock = Lock(out / ".lock", ConfigError(f"{out}: another process trains into this folder; choose another --out"))
    except OSError as error:
        raise write_error(out, error) from error
    try:
        yield
    finally:
        lock.release()
        if not there:
            with suppress(OSError):  # a folder with anything in it stays
                out.rmdir()


def begin_folder(
    out: Path,
    recipe: Recipe,
    data: str,
    ranks: int,
    path: Path | None,
    checkpoint: dict[str, Any] | None,
    wandb: str | None,
    held_out: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write the recipe and the record of this start, tidy up, and take over the files of a run that goes on.

    Args:
        path: the checkpoint to go on from.
        checkpoint: its content.
        held_out: names of the training images that are validated on.
        about: further entries of the record.

    Raises:
        WriteError: no space, no permission.
    """
    clear_away(out)
    resumed = None
    if checkpoint is not None and path is not None:
        take_along(path, checkpoint, out)
        go_on_from(path, out)
        (out / WEIGHTS).unlink(missing_ok=True)  # the run had ended; best.ckpt has the same weights
        write_validation(out)
        resumed = {"step": checkpoint["global_step"], "checkpoint": str(path)}
        for name in (METRICS, TIMING):
            mend_rows(checkpoint, out / name)
    if held_out:
        with writing(out / HELD_OUT) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in held_out), encoding="utf-8")
    place = data if is_timm_source(data) and not Path(data).exists() else str(Path(data).resolve())
    note_start(out / "environment.json", data=place, processes=ranks, resumed=resumed, wandb=wandb, **(about or {}))
    # The recipe comes last: it makes the folder that of a run, of which all that a resume needs is there then.
    with writing(out / "recipe.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False))


def is_finished(out: Path) -> bool:
    """Return whether everything lies in the folder that a run leaves at its end."""
    return all((out / name).exists() for name in (WEIGHTS, "validation.npz", *DESCRIPTION))


def finish_folder(out: Path, recipe: Recipe) -> None:
    """Write what a run leaves at its end: weights, validation and curves of the best epoch.

    Raises:
        WriteError: no checkpoint of the run could be written; no space, no permission.
    """
    if not (out / BEST).exists():
        raise WriteError(f"no checkpoint of the run in {out} could be written: there is nothing to keep")
    model = load_model(out / BEST)
    save_model(model, out / WEIGHTS)
    write_validation(out)
    try:
        describe_folder(model, out, _figures(out, recipe))
        plot_curves({recipe.label: out / METRICS}, out / "curves.png")
    except (OSError, DataError) as error:  # neither is worth failing for
        warn(str(error))


def _figures(out: Path, recipe: Recipe) -> str:
    """What the model card says of the run: the errors of the best epoch."""
    rows = read_metrics(out / METRICS)
    best = min(rows, key=lambda epoch: (rows[epoch]["val/top1_error"], epoch))
    starts = read_starts(out / "environment.json")
    data = Path(str(starts[-1]["data"])).name if starts else "unknown"
    return (
        f"Trained on the set {data} for {recipe.total_epochs} epochs. On its validation images, after epoch {best + 1} "
        f"(the best, by this very measure): top-1 error {rows[best]['val/top1_error']:.2f} %, top-5 error "
        f"{rows[best]['val/top5_error']:.2f} %."
    )


def seconds_of(out: Path) -> float:
    """Return the training and validation time of a run, over all its starts; 0 where its file cannot be read."""
    try:
        return total_seconds(read_timing(out / TIMING))
    except (OSError, DataError):  # the folder may be on another machine's disk, or on a full one
        return 0.0
