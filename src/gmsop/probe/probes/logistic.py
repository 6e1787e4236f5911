"""The same vectors with logistic regression in place of ridge regression."""

from functools import partial
from importlib.util import find_spec
from itertools import product

import numpy as np
import torch

from gmsop.errors import ConfigError
from gmsop.probe.closed_form import BUDGET
from gmsop.probe.folds import held_out
from gmsop.probe.registry import Fold, Outcome, register_probe
from gmsop.probe.ridge import Choice
from gmsop.probe.vectors import Block


def run(fold: Fold, layer: str, order: int) -> Outcome:
    """Choose dimension and penalty on a fifth of the training images, fit on all of them, and answer.

    The inner products' own coordinates stand for the vectors: the penalty is the same in both.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    if find_spec("sklearn") is None:
        raise ConfigError("logistic regression needs scikit-learn: pip install 'gmsop[probe]'")
    from sklearn.linear_model import LogisticRegression

    every = [Block(layer, 1)] if order == 1 else [Block(layer, 2, dim) for dim in fold.dims_of(layer)]
    strengths = np.logspace(-1, 4, BUDGET // len(every))
    out = held_out(fold.labels, 0.2, fold.seed)
    found = []
    points_of = {block: _coordinates(fold, block) for block in every}
    for block, strength in product(every, strengths):
        points, _ = points_of[block]
        model = LogisticRegression(C=strength, max_iter=1000).fit(points[~out], fold.labels[~out])
        wrong = float((model.predict(points[out]) != fold.labels[out]).mean())
        found.append(
            (Choice({"C": float(strength), **({"dim": block.dim} if order == 2 else {})}, wrong, strength), block)
        )
    choice, block = min(found, key=lambda one: one[0].key())  # of equals, the strongest penalty
    points, tested = points_of[block]
    model = LogisticRegression(C=choice.setting["C"], max_iter=1000).fit(points, fold.labels)
    return Outcome(choice, model.predict(tested), block.size(fold.features.channels(layer)))


def _coordinates(fold: Fold, block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates of training and test images with the inner products of the block's vectors."""
    values, vectors = torch.linalg.eigh(fold.train_kernel([block]))
    kept = values > 1e-7 * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    tested = fold.test_kernel([block]) @ (vectors / values.sqrt())
    return (vectors * values.sqrt()).numpy(), tested.numpy()


for _name, _order in (("average_logistic", 1), ("second_order_logistic", 2)):
    register_probe(
        _name,
        partial(run, order=_order),
        order=_order,
        budget=BUDGET,
        help=f"{'average pooling' if _order == 1 else 'second order'} and logistic regression",
    )
