"""Mean and covariance of one layer beside each other."""

from gmsop.probe.closed_form import BUDGET, fit_best
from gmsop.probe.registry import Fold, Outcome, register_probe
from gmsop.probe.vectors import Block


def run(fold: Fold, layer: str) -> Outcome:
    """Choose the number of components and the penalty, and answer."""
    return fit_best(fold, [[Block(layer, 1), Block(layer, 2, dim)] for dim in fold.dims_of(layer)])


register_probe(
    "first_and_second",
    run,
    order=2,
    budget=BUDGET,
    is_model=True,
    help="average and second order beside each other, a ridge classifier",
)
