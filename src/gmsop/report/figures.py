"""Draw the page's figures, each as an SVG in a data URL."""

import base64
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from gmsop.runs.metrics import Epochs

WIDTH = 5.2
"""Width of a figure in inches: two fit side by side on a desk's screen, one is still readable on a phone."""

NAMED = 6
"""Most points of a scatter plot that have their names beside them."""

MAX_LABEL = 32
"""Characters of a name that a figure has room for."""


AS_ALWAYS = matplotlib.style.context("default")
"""A decorator: a `matplotlibrc` in the working directory, which could have LaTeX run, does not count."""


def _url(figure: Figure) -> str:
    buffer = io.BytesIO()
    # Text stays text: a browser finds fonts for scripts that Matplotlib's own font lacks.
    with matplotlib.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _short(label: str) -> str:
    return label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1] + "…"


def colours(count: int) -> list[str]:
    """Return the colours of so many runs, as #rrggbb; after twenty they repeat."""
    pairs = [to_hex(colour) for colour in matplotlib.color_sequences["tab20"]]
    return [(pairs[::2] + pairs[1::2])[i % 20] for i in range(count)]


@AS_ALWAYS
def curves(runs: Sequence[Epochs], keys: Mapping[str, str], label: str, log: bool = False, whole: bool = False) -> str:
    """Draw values over epochs, each run in the colour that `colours` gives its place.

    Args:
        keys: maps each column of `metrics.csv` to its line style.
        label: name of the vertical axis.
        log: make the vertical axis logarithmic.
        whole: mark only whole numbers on the vertical axis.
    """
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for metrics, colour in zip(runs, colours(len(runs)), strict=True):
        for key, style in keys.items():
            values = [(epoch + 1, row.get(key, math.nan)) for epoch, row in sorted(metrics.items())]
            points = [(x, y) for x, y in values if math.isfinite(y)]
            if points:
                axes.plot(*zip(*points, strict=True), style, color=colour, marker="." if len(points) < 3 else "")
    axes.set(xlabel="epoch", ylabel=label)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "235" else "")
    else:
        if whole:
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.update_datalim([(1, 0)])
        axes.autoscale_view()  # once more, so that a level curve has room above it
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    return _url(figure)


@AS_ALWAYS
def loads(metrics: Epochs) -> str:
    """Draw each component's share of the gate weight over the epochs, stacked."""
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


@AS_ALWAYS
def heat_map(values: NDArray[Any], rows: Sequence[str]) -> str:
    """Draw percentages (rows, columns) as a heat map, with the number written in each cell."""
    count, width = values.shape
    figure = Figure(figsize=(max(WIDTH, 1.6 + 0.42 * width), 0.9 + 0.27 * count), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(values, cmap="Blues", vmin=0, aspect="auto")
    axes.set_xticks(range(width), [str(i) for i in range(width)])
    axes.set_yticks(range(count), map(_short, rows), parse_math=False)  # a $ begins no formula
    axes.set_xlabel("component")
    half = values.max() / 2
    for row in range(count):
        for column in range(width):
            value = values[row, column]
            colour = "white" if value > half else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    return _url(figure)


@AS_ALWAYS
def error_bars(rows: Sequence[tuple[str, float, float, float, str]], reference: float) -> str:
    """Draw error rates with their intervals, one under the other.

    Args:
        rows: label, error, low, high and colour of each, from the top.
        reference: where a dotted line stands.
    """
    figure = Figure(figsize=(WIDTH, 0.9 + 0.27 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, error, low, high, colour) in enumerate(rows):
        axes.barh(place, error, 0.7, color=colour, alpha=0.85)
        axes.plot([low, high], [place, place], color="black", linewidth=1.2)
    axes.set_yticks(range(len(rows)), [_short(row[0]) for row in rows], parse_math=False, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.axvline(reference, color="black", linestyle=":", linewidth=1)
    axes.set(xlabel="error, %", xlim=(0, None))
    axes.grid(alpha=0.3, axis="x")
    return _url(figure)


@AS_ALWAYS
def error_map(values: NDArray[Any], rows: Sequence[str], columns: Sequence[str]) -> str:
    """Draw error rates in percent (rows, columns) as a heat map, the lowest darkest; NaN is left blank."""
    count, width = values.shape
    figure = Figure(figsize=(max(WIDTH, 2.2 + 0.8 * width), 1.3 + 0.3 * count), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(values, cmap="Greens_r", aspect="auto")
    axes.set_xticks(range(width), map(_short, columns), rotation=20, ha="right", parse_math=False, fontsize=8)
    axes.set_yticks(range(count), map(_short, rows), parse_math=False, fontsize=8)
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for row in range(count):
        for column in range(width):
            value = values[row, column]
            if math.isfinite(value):
                colour = "white" if value < middle else "black"
                axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color=colour)
    return _url(figure)


@AS_ALWAYS
def scatter(points: Sequence[tuple[str, float, float, str]], label: str) -> str:
    """Draw error rates against what they cost, on a logarithmic axis; the best few have their names beside them.

    Args:
        points: label, cost, error and colour of each.
        label: what the cost is.
    """
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.add_subplot()
    costs = [max(point[1], 1e-3) for point in points]
    for place, (name, cost, error, colour) in enumerate(sorted(points, key=lambda point: point[2])):
        axes.plot(max(cost, 1e-3), error, "o", color=colour)
        if place < NAMED:  # more would lie on top of each other
            left = max(cost, 1e-3) ** 2 > min(costs) * max(costs)
            axes.annotate(
                _short(name), (max(cost, 1e-3), error), xytext=(-6 if left else 6, -2), textcoords="offset points",
                fontsize=7, ha="right" if left else "left", parse_math=False,
            )  # fmt: skip
    axes.set(xlabel=label, ylabel="error, %", xscale="log")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    return _url(figure)
