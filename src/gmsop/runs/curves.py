"""Draw learning curves."""

import math
from collections.abc import Mapping
from pathlib import Path

from gmsop.runs.metrics import read_metrics
from gmsop.utils.files import writing


def plot_curves(runs: Mapping[str, str | Path], path: str | Path) -> None:
    """Draw top-1 error over epochs, on val (solid) and on train (dashed), one colour per run, to a PNG file.

    Args:
        runs: maps each run's label to its `metrics.csv`.
        path: the picture.

    Raises:
        WriteError: there is no space or no permission.
    """
    from matplotlib import style

    with style.context("default"):  # a `matplotlibrc` in the working directory could have LaTeX run
        _plot_curves(runs, path)


def _plot_curves(runs: Mapping[str, str | Path], path: str | Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # this one needs no window system
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for i, (label, file) in enumerate(runs.items()):
        metrics = read_metrics(file)
        for key, style, what in (("val/top1_error", "-", "val"), ("train/top1_error", "--", "train")):
            points = [(epoch + 1, values[key]) for epoch, values in sorted(metrics.items()) if key in values]
            points = [(x, y) for x, y in points if math.isfinite(y)]
            if points:
                last = f" {points[-1][1]:.1f} %"
                axes.plot(*zip(*points, strict=True), style, color=f"C{i}", label=f"{label}, {what}:{last}")
    axes.set(xlabel="epoch", ylabel="top-1 error, %", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(title="after the last epoch")
    with writing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))
