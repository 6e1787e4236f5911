"""Write the page of a probe: the answer, the table, figures, and images on which first and second order disagree."""

import base64
import io
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from gmsop.data.labelled_images import LabelledImages
from gmsop.data.preprocess import Preprocess
from gmsop.engine.messages import duration
from gmsop.errors import DataError
from gmsop.probe.comparison import CHOSEN, Comparison, Row
from gmsop.report import figures
from gmsop.utils.files import writing
from gmsop.utils.text import printable_lines

COLOURS = {0: "#7f7f7f", 1: "#1f77b4", 2: "#2ca02c"}
"""Of rows built on neither means nor covariances, on means, on covariances."""
SHOWN = 12
"""Most images of each kind that the page shows."""
SIDE = 96
"""Pixels of such an image."""


def write_probe_page(comparison: Comparison, page: str | Path, images: LabelledImages) -> None:
    """Write the page.

    Args:
        images: those that were compared on, in the same order.

    Raises:
        WriteError: there is no space or no permission.
    """
    environment = Environment(
        loader=PackageLoader("gmsop.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    rows = comparison.rows
    singles = [row for row in rows if not row.is_chosen]
    text = environment.get_template("probe.html.j2").render(
        title=f"Probe of {comparison.about['backbone']}",
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        verdict=comparison.verdict,
        mcnemar=f"{comparison.difference.p_value:.2g}",
        about=comparison.about,
        images=f"{comparison.images:,}",
        tested=f"{len(comparison.test_images):,}",
        folds=comparison.folds,
        seeds=comparison.seeds,
        settings={row.head: row.settings for row in rows},
        seconds=duration(comparison.seconds),
        rows=[_cells(row) for row in rows],
        kept=comparison.winner.label,
        colours=[("first order", COLOURS[1]), ("second order", COLOURS[2]), ("neither", COLOURS[0])],
        bars=figures.error_bars(
            [(_label(row), row.error, *row.interval, COLOURS[row.order]) for row in rows], comparison.reference.error
        ),
        heat=_heat(singles),
        by_seconds=figures.scatter(
            [(_label(row), row.seconds, row.error, COLOURS[row.order]) for row in rows], "seconds of fitting"
        ),
        by_size=figures.scatter(
            [(_label(row), row.size, row.error, COLOURS[row.order]) for row in rows if row.size],
            "numbers in the vector",
        ),
        choices=[(row.head, row.chosen) for row in rows if row.is_chosen],
        disagreements=_disagreements(comparison, images),
    )  # fmt: skip
    with writing(page) as temporary:
        temporary.write_text(printable_lines(text), encoding="utf-8")


def _label(row: Row) -> str:
    return row.head if row.layers == CHOSEN else f"{row.head}, {row.layers}"


def _cells(row: Row) -> dict[str, Any]:
    found = row.difference
    return {
        "head": row.head,
        "layers": row.layers,
        "is_chosen": row.is_chosen,
        "error": f"{row.error:.2f}",
        "interval": f"{row.interval[0]:.2f} to {row.interval[1]:.2f}",
        "difference": "" if found is None else f"{found.points:+.2f}",
        "between": "" if found is None else f"{found.low:+.2f} to {found.high:+.2f}",
        "verdict": "reference" if found is None else found.verdict,
        "size": f"{row.size:,}" if row.size else "",
        "seconds": f"{row.seconds:.1f}",
    }


def _heat(rows: list[Row]) -> str:
    heads = sorted({row.head for row in rows})
    layers = list(dict.fromkeys(row.layers for row in sorted(rows, key=lambda row: row.layers)))
    values = np.full((len(heads), len(layers)), np.nan)
    for row in rows:
        values[heads.index(row.head), layers.index(row.layers)] = row.error
    return figures.error_map(values, heads, layers)


def _disagreements(comparison: Comparison, images: LabelledImages) -> list[dict[str, Any]]:
    """Return images that one of the two rows chosen got right and the other wrong, evenly spread over them."""
    names = images.class_names
    first, second = comparison.reference, comparison.best
    kinds = [
        ("second order is right, first order is wrong", first.wrong[0] & ~second.wrong[0], first),
        ("first order is right, second order is wrong", second.wrong[0] & ~first.wrong[0], second),
    ]
    found = []
    for caption, which, wrong in kinds:
        places = np.flatnonzero(which)
        shown = places[np.unique(np.linspace(0, len(places) - 1, min(SHOWN, len(places))).round().astype(int))]
        strip = []
        for place in shown.tolist():
            row = int(comparison.test_images[place])
            try:
                picture = _jpeg(images, row)
            except DataError:
                continue
            right, taken = names[int(images.labels[row])], names[int(wrong.answers[place])]
            strip.append({"url": picture, "text": f"{right}, taken for {taken}"})
        found.append({"caption": caption, "count": f"{len(places):,}", "strip": strip})
    return found


def _jpeg(images: LabelledImages, row: int) -> str:
    pixels = images.read(row, Preprocess(SIDE, (0.0,) * 3, (1.0,) * 3, "bilinear"))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
