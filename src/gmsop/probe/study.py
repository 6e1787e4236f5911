"""Do all of a probe: features, comparison, tables, and the model to keep, in one folder."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gmsop.data.equal_files import warn_of_equal_files
from gmsop.data.labelled_images import LabelledImages, find_images
from gmsop.engine.messages import say
from gmsop.errors import ConfigError
from gmsop.probe.comparing import DEFAULT_HEADS, MAX_IMAGES, check_heads, compare
from gmsop.probe.comparison import Comparison
from gmsop.probe.extraction import extract
from gmsop.probe.folds import require_images
from gmsop.probe.forecast import forecast
from gmsop.probe.kept_model import fit_model
from gmsop.utils.files import writing
from gmsop.utils.text import cell
from gmsop.weights import save_model


def study(
    backbone: str,
    data: str | Path | LabelledImages,
    out: str | Path,
    *,
    layers: Sequence[str | int] | str = "auto",
    weights: str = "auto",
    image_size: int | None = None,
    batch_size: int = 4,
    num_workers: int | None = None,
    flip: bool = False,
    heads: Sequence[str] = DEFAULT_HEADS,
    pairs: bool = True,
    dims: Sequence[int] = (64, 128),
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    epochs: int = 20,
    max_images: int = 6000,
    features: str | Path | None = None,
    progress: bool = False,
) -> Comparison:
    """Compare heads on images, and leave `comparison.csv`, `comparison.json` and `model.safetensors` in `out`.

    Features that are there are used again, and files of an earlier probe in the same folder are replaced. The arguments
    are those of `extract` and `compare`.

    Args:
        out: folder to make, or that of an earlier probe of the same images.
        max_images: of more images so many are drawn, the same share of every class and split, always the same ones.
        features: folder of the features; None: `out/features`.

    Raises:
        GmsopError: see `extract` and `compare`; what can be refused before features are computed, is.
    """
    out = Path(out)
    if not 2 <= max_images <= MAX_IMAGES:
        raise ConfigError(f"max_images must be from 2 to {MAX_IMAGES:,}, got {max_images}")
    check_heads(heads, dims, seeds, epochs)
    images = data if isinstance(data, LabelledImages) else find_images(data, progress)
    if len(images) > max_images and progress:
        say(f"of {len(images):,} images {max_images:,} are drawn, the same share of every class")
    images = drawn(images, max_images)
    require_images(images.labels, images.is_test, images.class_names, folds)
    train = images if images.is_test is None else images.subset(np.flatnonzero(~images.is_test))
    warn_of_equal_files(train, None if images.is_test is None else images.subset(np.flatnonzero(images.is_test)))
    found = extract(
        backbone, images, features or out / "features", layers, weights, image_size=image_size, batch_size=batch_size,
        num_workers=num_workers, flip=flip, progress=progress,
    )  # fmt: skip
    guess = forecast(found)
    if progress:
        say(
            f"forecast: the nearest neighbour's error is {guess.second:.1f} % by covariances, {guess.first:.1f} % by "
            "means; a hint, no result"
        )
    comparison = compare(
        found, heads, pairs=pairs, dims=dims, folds=folds, seeds=seeds, epochs=epochs, progress=progress
    )
    comparison = replace(comparison, forecast=guess)
    write_tables(comparison, out)
    save_model(fit_model(found, comparison, epochs), out / "model.safetensors")
    return comparison


def drawn(images: LabelledImages, count: int) -> LabelledImages:
    """Return so many of the images, the same share of every class and split; all, if there are no more."""
    if len(images) <= count:
        return images
    rng = np.random.default_rng(0)
    split = np.zeros(len(images), bool) if images.is_test is None else images.is_test
    order = np.empty(len(images))
    for label in range(len(images.class_names)):
        for part in (False, True):
            rows = np.flatnonzero((images.labels == label) & (split == part))
            order[rows] = (rng.permutation(len(rows)) + rng.random()) / max(1, len(rows))
    return images.subset(np.sort(np.argsort(order, kind="stable")[:count]))


def write_tables(comparison: Comparison, out: Path) -> None:
    """Write the table as CSV, and everything as JSON.

    Raises:
        WriteError: there is no space or no permission.
    """
    records = comparison.records()
    with writing(out / "comparison.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows({k: cell(v) if isinstance(v, str) else v for k, v in record.items()} for record in records)
    found = comparison.difference
    whole: dict[str, Any] = {
        "verdict": comparison.verdict,
        "difference": found.points,
        "interval": [found.low, found.high],
        "p_value": found.p_value,
        "forecast": None if comparison.forecast is None else comparison.forecast._asdict(),
        "images": comparison.images,
        "test_images": len(comparison.test_images),
        "folds": comparison.folds,
        "seeds": list(comparison.seeds),
        "about": comparison.about,
        "kept": {"is": comparison.winner.label, **comparison.winner.outcome.choice.setting},
        "seconds": comparison.seconds,
        "rows": records,
    }
    with writing(out / "comparison.json") as temporary:
        temporary.write_text(json.dumps(whole, indent=1), encoding="utf-8")
