"""The mean over positions, then ridge regression: the best that average pooling gives without training."""

from gmsop.probe.closed_form import BUDGET, fit_best
from gmsop.probe.registry import Fold, Outcome, register_probe
from gmsop.probe.vectors import Block


def run(fold: Fold, layer: str) -> Outcome:
    """Choose the penalty, and answer."""
    return fit_best(fold, [[Block(layer, 1)]])


register_probe("average", run, order=1, budget=BUDGET, is_model=True, help="average pooling and a ridge classifier")
