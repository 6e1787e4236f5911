"""Draw explanations: a PNG with a row per image, and a page with the same pictures and the figures beside."""

import base64
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from gmsop.evaluation.explanation import Explanation, Part
from gmsop.report.figures import AS_ALWAYS
from gmsop.utils.files import writing
from gmsop.utils.text import printable

SHOWN = 4
"""Parts of an image that are drawn."""
PAIRS = 8
"""Channel pairs of a part that are told."""


def write_sheet(explanations: Sequence[Explanation], file: Path) -> None:
    """Write the PNG.

    Raises:
        WriteError: no space, no permission.
    """
    figure = draw(explanations)
    with writing(file) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def write_page(explanations: Sequence[Explanation], file: Path) -> None:
    """Write the page, which needs nothing beside itself.

    Raises:
        WriteError: no space, no permission.
    """
    environment = Environment(
        loader=PackageLoader("gmsop.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    rows = [
        {
            "name": printable(each.name),
            "classes": [(printable(name), 100 * p) for name, p in each.classes],
            "explained": printable(each.explained),
            "logit": each.logit,
            "picture": _url(draw([each])),
            "parts": [(part.name, part.weight, part.strongest(PAIRS), part.contributions.ndim) for part in each.parts],
        }
        for each in explanations
    ]
    text = environment.get_template("explanation.html.j2").render(rows=rows)
    with writing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _url(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@AS_ALWAYS
def draw(explanations: Sequence[Explanation]) -> Figure:
    """Draw a row per image: it, where each part's features vary, and where its strongest channel pair does."""
    columns = 1 + 2 * max(min(SHOWN, len(each.parts)) for each in explanations)
    figure = Figure(figsize=(2.1 * columns, 2.6 * len(explanations)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(explanations), columns, squeeze=False)
    for row, each in zip(axes, explanations, strict=True):
        for ax in row:
            ax.axis("off")
        name, probability = each.classes[0]
        title = f"{printable(name)[:24]} {100 * probability:.0f} %"
        if each.explained != name:
            title += f"\nexplained: {printable(each.explained)[:20]}"
        row[0].imshow(each.pixels)
        row[0].set_title(title, fontsize=8, parse_math=False)
        for place, part in enumerate(each.parts[:SHOWN]):
            _overlay(row[1 + 2 * place], each.pixels, part.energy)
            weight = "" if part.weight is None else f", weight {part.weight:.2f}"
            row[1 + 2 * place].set_title(f"{part.name}{weight}\nits energy", fontsize=8)
            _draw_pair(row[2 + 2 * place], each.pixels, part)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.draw_without_rendering()
    return figure


def _draw_pair(ax: object, pixels: NDArray[np.uint8], part: Part) -> None:
    i, j, value = part.strongest(1)[0]
    where = part.pair_map(i, j) if part.contributions.ndim == 2 else part.features[i]
    _overlay(ax, pixels, where.clip(0) if where.max() > 0 else -where)
    what = f"channels {i} x {j}" if part.contributions.ndim == 2 else f"channel {i}"
    ax.set_title(f"strongest: {what}\n{value:+.3f}", fontsize=8)  # type: ignore[attr-defined]


def _overlay(ax: object, pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> None:
    """Draw a map over a grey image: the more, the redder."""
    size = pixels.shape[0]
    scaled = heat / max(float(heat.max()), 1e-30)
    large = np.asarray(
        Image.fromarray(scaled.clip(0, 1).astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR)
    )
    grey = pixels.mean(2, keepdims=True).repeat(3, 2) / 255
    red = np.array([0.85, 0.1, 0.1])
    share = 0.75 * large[:, :, None]
    ax.imshow((1 - share) * grey + share * red)  # type: ignore[attr-defined]
