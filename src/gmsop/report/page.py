"""Write the page: what it says about each run, and how the runs compare."""

import base64
import shlex
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from gmsop.data import PackedDataset
from gmsop.data.data_options import DataOptions
from gmsop.data.photographs import Photographs
from gmsop.data.preprocess import Preprocess
from gmsop.data.timm_sources import Stream
from gmsop.data.training_images import find_training_images
from gmsop.engine.messages import duration
from gmsop.errors import ConfigError, DataError
from gmsop.evaluation.intervals import wilson_interval
from gmsop.models import published
from gmsop.report import figures
from gmsop.report.samples import favourites
from gmsop.runs.metrics import Epochs
from gmsop.runs.run_folder import RunFolder, read_run
from gmsop.utils.files import writing
from gmsop.utils.text import printable_lines

MAX_ROWS = 40
"""Most classes that a heat map shows."""

WORST = 10
"""Most classes that the table of confusions shows."""


def write_report(
    runs: Sequence[Path],
    page: Path,
    data: str | Path | None = None,
    images: int = 2000,
    progress: bool = False,
) -> None:
    """Write the page `page` about the run folders `runs`.

    Args:
        data: packed set whose val holds the sample images; None: the set that each run was trained on, if it is still
            there.
        images: how many val images are searched for samples.
        progress: show a progress bar.

    Raises:
        ConfigError: a folder is not a run folder, is named twice, or has no finished epoch.
        CheckpointError: a run's weights are missing or damaged.
        DataError: `data` is no packed set, or has other classes than the runs.
        WriteError: there is no space or no permission.
    """
    if images < 1:
        raise ConfigError(f"images must be at least 1, got {images}")
    folders = [read_run(path) for path in runs]
    if len({folder.path.resolve() for folder in folders}) < len(folders):
        raise ConfigError("the same run is named twice")
    if data and PackedDataset(data, "val").class_names not in [folder.class_names for folder in folders]:
        raise DataError(f"{data}: its classes are not those of the run {' or '.join(str(f.path) for f in folders)}")
    labels = _labels(folders)
    environment = Environment(
        loader=PackageLoader("gmsop.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    text = environment.get_template("page.html.j2").render(
        title=" and ".join(labels) if len(labels) < 3 else f"{len(labels)} runs",
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        paper=published.PAPER,
        rows=[_row(label, folder) for label, folder in zip(labels, folders, strict=True)],
        legend=list(zip(labels, figures.colours(len(labels)), strict=True)),
        curves=_curves([folder.metrics for folder in folders]),
        differences=_differences(labels, folders),
        runs=[
            _details(label, folder, data, images, progress) for label, folder in zip(labels, folders, strict=True)
        ],
    )  # fmt: skip
    with writing(page) as temporary:
        temporary.write_text(printable_lines(text), encoding="utf-8")


def _labels(folders: Sequence[RunFolder]) -> list[str]:
    """Return the folders' names, each with as many of the folders above as it takes to tell them apart."""
    paths = [folder.path.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, paths))):
        names = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [str(folder.path.resolve()) for folder in folders]


def _row(label: str, folder: RunFolder) -> dict[str, Any]:
    best, total = folder.metrics[folder.best_epoch], folder.recipe["epochs"]
    done, planned = len(folder.metrics), sum(total) if isinstance(total, list) else total
    low, high = wilson_interval(best["val/top1_error"], folder.val_images)
    results = [r for r in published.RESULTS if r.model == folder.recipe["model"]]
    return {
        "label": label,
        "model": folder.recipe["model"] or _on_backbone(folder.recipe),
        "parameters": f"{folder.parameters:,}",
        "epochs": f"{done}" if done == planned else f"{done} of {planned}",
        "best_epoch": folder.best_epoch + 1,
        "top1": f"{best['val/top1_error']:.2f}",
        "interval": f"{low:.2f} to {high:.2f}" if folder.val_images else "",
        "top5": f"{best['val/top5_error']:.2f}",
        "last": f"{folder.metrics[max(folder.metrics)]['val/top1_error']:.2f}",
        "images": f"{folder.val_images:,}",
        "time": duration(folder.seconds) if folder.timing else "",
        "published": [_published(r) for r in results],
    }


def _on_backbone(recipe: dict[str, Any]) -> str:
    return f"{recipe.get('head')} on {recipe.get('backbone')}"


def _published(result: published.Result) -> str:
    top5 = "-" if result.top5 is None else f"{result.top5:.2f}"
    released = f" (released weights {result.released[0]:.2f} / {result.released[1]:.2f})" if result.released else ""
    return f"{result.top1:.2f} / {top5}{released} on {result.dataset}" + (f", {result.note}" if result.note else "")


def _curves(metrics: list[Epochs]) -> list[tuple[str, str]]:
    errors, losses = ({f"val/{what}": "-", f"train/{what}": "--"} for what in ("top1_error", "loss"))
    found = [
        ("Top-1 error", figures.curves(metrics, errors, "top-1 error, %")),
        ("Cross-entropy", figures.curves(metrics, losses, "cross-entropy", log=True)),
        ("Learning rate", figures.curves(metrics, {"lr": "-"}, "learning rate")),
    ]
    if not any("gate/entropy" in row for rows in metrics for row in rows.values()):
        return found
    return [
        *found,
        ("Gate entropy: of an image's weights", figures.curves(metrics, {"gate/entropy": "-"}, "nats")),
        ("Balance loss", figures.curves(metrics, {"train/balance_loss": "-"}, "balance loss")),
        (
            "Components without a val image",
            figures.curves(metrics, {"val/dead_components": "-"}, "components", whole=True),
        ),
    ]


def _differences(labels: list[str], folders: Sequence[RunFolder]) -> list[tuple[str, list[str]]]:
    """Return the recipe's keys whose values are not the same in all runs, with each run's value."""
    keys = dict.fromkeys(key for folder in folders for key in folder.recipe)
    table = [(key, [str(folder.recipe.get(key, "")) for folder in folders]) for key in keys]
    return [(key, values) for key, values in table if len(set(values)) > 1]


def _details(label: str, folder: RunFolder, data: str | Path | None, images: int, progress: bool) -> dict[str, Any]:
    samples, why_not = _samples(folder, data, images, progress)
    gated = "gate_weight" in folder.arrays
    shown, note = _heat_rows(folder) if gated else ([], "")
    weight = folder.arrays["gate_weight"][shown] if shown else np.zeros((0, 0))
    recipe = yaml.safe_dump(folder.recipe, sort_keys=False)
    share = 100 * weight / np.maximum(weight.sum(1, keepdims=True), 1e-30)
    return {
        "label": label,
        "gated": gated,
        "loads": figures.loads(folder.metrics) if gated else "",
        "heat": figures.heat_map(share, [folder.class_names[i] for i in shown]) if shown else "",
        "heat_note": note,
        "dead": [i for i, n in enumerate(folder.arrays["gate_chosen"].sum(0)) if n == 0] if gated else [],
        "samples": samples,
        "why_no_samples": why_not,
        "worst": _worst(folder),
        "pictures": _pictures(folder.path),
        "starts": folder.starts,
        "skipped": int(sum(row.get("train/skipped_passes", 0) for row in folder.metrics.values())),
        "recipe": recipe,
        "recipe_url": "data:text/yaml;base64," + base64.b64encode(recipe.encode()).decode(),
        "again": _again(folder),
    }


def _again(folder: RunFolder) -> str:
    """Return the commands that train the same again, and look at it."""
    first: dict[str, Any] = folder.starts[0] if folder.starts else {}
    said = first.get("data_options")
    default = asdict(DataOptions())
    options = {k: v for k, v in said.items() if k in default and v != default[k]} if isinstance(said, dict) else {}
    words = ["gmsop", "train", "--recipe", "recipe.yaml", "--data", str(first.get("data", "DATA"))]
    for name, value in options.items():
        words += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    out = f"{folder.path.name}-again"
    return f"{shlex.join([*words, '--out', out])}\n{shlex.join(['gmsop', 'report', str(folder.path), out])}"


PICTURES = {
    "augmented.png": "Training images as the network sees them, before mixup or cutmix",
    "learning_rate.png": "Learning rate",
}
"""Pictures in a run's folder that the page shows, with what is said of them."""
LARGEST_PICTURE = 2**24
"""Bytes of a picture that is shown."""


def _pictures(folder: Path) -> list[tuple[str, str]]:
    """Return what is said of each picture in the folder, and its PNG in a data URL."""
    found = []
    for name, caption in PICTURES.items():
        file = folder / name
        if file.is_file() and not file.is_symlink() and file.stat().st_size <= LARGEST_PICTURE:
            content = file.read_bytes()
            if content.startswith(b"\x89PNG"):
                found.append((caption, "data:image/png;base64," + base64.b64encode(content).decode()))
    return found


def _heat_rows(folder: RunFolder) -> tuple[list[int], str]:
    """Choose the classes to show (all, or those whose images go elsewhere than the average image), with a note."""
    weight = folder.arrays["gate_weight"]
    seen = [i for i in range(len(weight)) if weight[i].sum() > 0]
    if len(seen) <= MAX_ROWS:
        return seen, ""
    share = weight / np.maximum(weight.sum(1, keepdims=True), 1e-30)
    mean = weight.sum(0) / weight.sum()
    seen.sort(key=lambda i: -float(np.abs(share[i] - mean).sum()))
    return seen[:MAX_ROWS], f"The {MAX_ROWS} of {len(weight)} classes whose use differs most from the average."


def _samples(folder: RunFolder, data: str | Path | None, images: int, progress: bool) -> tuple[list[Any], str]:
    """Return rows of sample images by component; if there are none, the reason."""
    if "gate_weight" not in folder.arrays:
        return [], ""
    recorded = folder.starts[-1].get("data") if folder.starts else None
    path = data or recorded
    if path is None:
        return [], "The run does not say what it was trained on; --data names a packed set."
    try:
        dataset = _val_set(path, folder)
    except DataError as error:
        if data:
            raise
        return [], f"The set that the run was trained on cannot be read ({error}); --data names another place."
    if dataset.class_names != folder.class_names:
        return [], f"The classes of {path} are not those of the run; --data names another set."
    return favourites(folder.model, dataset, images, progress=progress), ""


def _val_set(path: str | Path, folder: RunFolder) -> PackedDataset | Photographs:
    """Open the images that a run was validated on, as its model sees them.

    Raises:
        DataError: they are not there any more, or are those of a stream.
    """
    if folder.recipe.get("images", "squares") == "squares":
        return PackedDataset(path, "val")
    said = folder.starts[-1].get("data_options", {}) if folder.starts else {}
    known = {f.name for f in fields(DataOptions)}
    try:
        options = DataOptions(**{k: v for k, v in dict(said).items() if k in known})
        images = find_training_images(str(path), options).val
    except (ConfigError, TypeError, ValueError) as error:
        raise DataError(str(error)) from error
    if isinstance(images, Stream):
        raise DataError("a stream, of which no image can be asked for")
    how = Preprocess.of(folder.model.pretrained_cfg)
    return Photographs(images, "val", how.fit, how.image_size)


def _worst(folder: RunFolder) -> list[dict[str, str]]:
    """Return the classes with the highest error, and what they were taken for."""
    if "confusion" not in folder.arrays:
        return []
    confusion, names = folder.arrays["confusion"], folder.class_names
    count = confusion.sum(1)
    errors = [(1 - confusion[i, i] / n, i) for i, n in enumerate(count) if n]
    rows = []
    for error, i in sorted(errors, reverse=True)[:WORST]:
        others = [(int(n), names[j]) for j, n in enumerate(confusion[i]) if j != i and n]
        taken = ", ".join(f"{name} {n}" for n, name in sorted(others, key=lambda pair: (-pair[0], pair[1]))[:3])
        rows.append({"name": names[i], "error": f"{100 * error:.1f}", "images": str(int(count[i])), "taken": taken})
    return rows
