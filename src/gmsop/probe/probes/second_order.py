"""Covariance of the first principal components and its root, then ridge regression: iSQRT-COV without training."""

from gmsop.probe.closed_form import BUDGET, fit_best
from gmsop.probe.registry import Fold, Outcome, register_probe
from gmsop.probe.vectors import Block


def run(fold: Fold, layer: str) -> Outcome:
    """Choose the number of components and the penalty, and answer."""
    return fit_best(fold, [[Block(layer, 2, dim)] for dim in fold.dims_of(layer)])


register_probe(
    "second_order",
    run,
    order=2,
    budget=BUDGET,
    is_model=True,
    help="covariance of principal components, its root, a ridge classifier",
)
