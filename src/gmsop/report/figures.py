"""The page's figures, each an SVG in a data URL."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from gmsop.metrics import Epochs

WIDTH = 5.2
"""Inches: two fit side by side on a desk, one is still readable on a phone."""

MAX_LABEL = 32
"""Characters of a name that a figure has room for."""


def _url(figure: Figure) -> str:
    buffer = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _plain(label: str) -> str:
    """A name as it is, within reason: no formula between two $, nor hidden from the legend by a leading _."""
    short = label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1] + "…"
    return (" " if label.startswith("_") else "") + short.replace("$", r"\$")


def curves(runs: Mapping[str, Epochs], keys: Mapping[str, str], label: str, log: bool = False) -> str:
    """Values over epochs, a colour per run.

    Args:
        keys: column of `metrics.csv` to line style.
        label: of the vertical axis.
    """
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, metrics) in enumerate(runs.items()):
        for key, style in keys.items():
            values = [(epoch + 1, row.get(key, math.nan)) for epoch, row in sorted(metrics.items())]
            points = [(x, y) for x, y in values if math.isfinite(y)]
            if points:
                what = _plain(name) + (f", {key.split('/')[0]}" if len(keys) > 1 else "")
                marker = "." if len(points) < 3 else ""
                axes.plot(*zip(*points, strict=True), style, color=f"C{i}", label=what, marker=marker)
    axes.set(xlabel="epoch", ylabel=label)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "235" else "")
    else:
        axes.update_datalim([(1, 0)])
        axes.autoscale_view()  # again, for room above a level curve
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _url(figure)


def loads(metrics: Epochs) -> str:
    """Share of the gate weight of each component over the epochs, stacked."""
    epochs = sorted(metrics)
    count = sum(key.startswith("gate/load_") for key in metrics[epochs[-1]])
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.add_subplot()
    shares = [[100 * metrics[e].get(f"gate/load_{i}", 0) for e in epochs] for i in range(count)]
    bottom = np.zeros(len(epochs))
    for i, share in enumerate(shares):
        axes.bar([e + 1 for e in epochs], share, 0.9, bottom, color=f"C{i % 10}", alpha=1 if i < 10 else 0.6)
        bottom += share
    axes.set(xlabel="epoch", ylabel="gate weight, % (one band a component)", ylim=(0, 100))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _url(figure)


def heat_map(values: NDArray[Any], rows: Sequence[str]) -> str:
    """Percent, (rows, columns), with the numbers written in where there is room for them."""
    count, width = values.shape
    figure = Figure(figsize=(max(WIDTH, 1.6 + 0.42 * width), 0.9 + 0.27 * count), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(values, cmap="Blues", vmin=0, aspect="auto")
    axes.set_xticks(range(width), [str(i) for i in range(width)])
    axes.set_yticks(range(count), map(_plain, rows))
    axes.set_xlabel("component")
    half = values.max() / 2
    for row in range(count):
        for column in range(width):
            value = values[row, column]
            colour = "white" if value > half else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    return _url(figure)
