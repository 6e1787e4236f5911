"""Second order with the exact root, with a power of each element, or with none: what the root is worth."""

from functools import partial

from gmsop.probe.closed_form import BUDGET, fit_best
from gmsop.probe.registry import Fold, Outcome, register_probe
from gmsop.probe.vectors import Block


def run(fold: Fold, layer: str, root: str) -> Outcome:
    """Choose the number of components and the penalty, and answer."""
    return fit_best(fold, [[Block(layer, 2, dim, root)] for dim in fold.dims_of(layer)])


for _name, _root, _help in (
    ("second_order_exact", "eigh", "second order with the exact root, by eigendecomposition"),
    ("second_order_power", "power", "second order with the signed root of each element"),
    ("covariance", "none", "the covariance of principal components as it is"),
):
    register_probe(
        _name, partial(run, root=_root), order=2, budget=BUDGET, is_model=True, help=f"{_help}; a ridge classifier"
    )
