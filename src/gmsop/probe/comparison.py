"""What a comparison found, with intervals of differences that are paired over images."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmsop.evaluation.intervals import wilson_interval
from gmsop.probe.forecast import Forecast
from gmsop.probe.registry import Outcome

if TYPE_CHECKING:
    from pandas import DataFrame

CHOSEN = "chosen"
"""The layers of a row that chose them inside the training images."""


@dataclass(frozen=True)
class Difference:
    """A difference of two error rates on the same images, in percentage points; negative: the first is better."""

    points: float
    low: float
    high: float
    """The 95 % interval, by the normal approximation of the mean of the images' differences; where no image is answered
    differently, by the exact interval of a share of none among so many images."""
    p_value: float
    """Of McNemar's exact test, on the first seed's folds."""

    @property
    def verdict(self) -> str:
        """Return "better", "worse", or "no difference shown" where the interval holds zero."""
        return "better" if self.high < 0 else "worse" if self.low > 0 else "no difference shown"


def paired(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Difference:
    """Compare two classifiers by which images they got wrong, (seeds, images) each.

    Source: Dietterich 1998 for McNemar's test, Clopper and Pearson 1934 for the exact interval.
    """
    from scipy.stats import binomtest  # this import is slow

    each = 100 * (first.astype(float) - second.astype(float)).mean(0)
    error = float(each.std(ddof=1)) / math.sqrt(len(each)) if len(each) > 1 else math.inf
    points, half = float(each.mean()), 1.96 * error
    if error == 0:
        half = 100 * (1 - 0.025 ** (1 / len(each)))
    only_first, only_second = int((first[0] & ~second[0]).sum()), int((second[0] & ~first[0]).sum())
    several = only_first + only_second
    p_value = float(binomtest(only_first, several).pvalue) if several else 1.0
    return Difference(points, points - half, points + half, p_value)


@dataclass(frozen=True)
class Row:
    """One row of the table: a head on a layer, or on layers chosen inside the training images."""

    head: str
    layers: str
    order: int
    """1: built on means; 2: on covariances; 0: on neither."""
    error: float
    """Of the test images, in percent."""
    interval: tuple[float, float]
    """Wilson's 95 % interval of one error rate; with several seeds, of the first."""
    difference: Difference | None
    """To the reference: the best of first order, its layers chosen inside the training images."""
    settings: int
    """How many were tried in each fold, inside its training images."""
    size: int
    """Length of the representation; of several folds, the longest."""
    seconds: float
    """Of all choosing, fitting and answering, without the features."""
    chosen: tuple[str, ...]
    """What was chosen in each fold, inside its training images."""
    inner: float
    """Error inside the training images by which it was chosen, in percent; the mean of the folds."""
    wrong: NDArray[np.bool_] = field(repr=False, compare=False)
    """(seeds, test images)."""
    answers: NDArray[np.int64] = field(repr=False, compare=False)
    """(test images,): of the first seed."""

    @property
    def is_chosen(self) -> bool:
        """Return True if the layers were chosen inside the training images, not looked at one by one."""
        return self.layers == CHOSEN


class Kept(NamedTuple):
    """Says of what the model to keep is made, chosen with all images that may be learnt from."""

    label: str
    """In words."""
    head: str
    """The probe's name."""
    layer: str
    outcome: Outcome


@dataclass(frozen=True)
class Comparison:
    """Holds the results of `gmsop.probe.compare`."""

    rows: list[Row]
    reference: Row
    """The best of first order."""
    best: Row
    """The best of second order."""
    images: int
    test_images: NDArray[np.int64] = field(repr=False)
    """(test images,): their places among the features."""
    folds: int
    """0: the data has a test split of its own."""
    seeds: tuple[int, ...]
    about: dict[str, Any]
    """Backbone, weights, preprocess, data."""
    winner: Kept = field(repr=False)
    """Of which the model to keep is made."""
    forecast: Forecast | None = None
    """What was guessed beforehand, if it was."""
    seconds: float = math.nan

    @property
    def difference(self) -> Difference:
        """Return how the best of second order differs from the best of first order."""
        assert self.best.difference is not None
        return self.best.difference

    @property
    def verdict(self) -> str:
        """Return the answer in one sentence."""
        found = self.difference
        interval = f"95 % interval {found.low:+.1f} to {found.high:+.1f}"
        if found.verdict == "no difference shown":
            return f"No difference shown: second order {found.points:+.1f} points ({interval})."
        how = "lower" if found.points < 0 else "higher"
        answer = f"Second order is {found.verdict}: its error is {how} by {abs(found.points):.1f} points ({interval})."
        return answer if found.p_value < 0.05 else f"{answer} The exact test does not show it."

    def to_frame(self) -> "DataFrame":
        """Return the table as a pandas DataFrame, a row for each head and layer.

        Raises:
            ModuleNotFoundError: pandas is not installed; it comes with the extra `probe`.
        """
        from pandas import DataFrame

        return DataFrame(self.records())

    def records(self) -> list[dict[str, Any]]:
        """Return the table as plain values, for CSV and JSON."""
        return [
            {
                "head": row.head,
                "layers": row.layers,
                "order": row.order,
                "error": row.error,
                "error_low": row.interval[0],
                "error_high": row.interval[1],
                "difference": None if row.difference is None else row.difference.points,
                "difference_low": None if row.difference is None else row.difference.low,
                "difference_high": None if row.difference is None else row.difference.high,
                "p_value": None if row.difference is None else row.difference.p_value,
                "verdict": "reference" if row.difference is None else row.difference.verdict,
                "size": row.size,
                "seconds": row.seconds,
                "inner_error": row.inner,
                "settings_tried": row.settings,
                "chosen": " | ".join(row.chosen),
            }
            for row in self.rows
        ]


def error_interval(wrong: NDArray[np.bool_]) -> tuple[float, float]:
    """Return Wilson's interval of the first seed's error rate, in percent."""
    return wilson_interval(100 * float(wrong[0].mean()), wrong.shape[1])
