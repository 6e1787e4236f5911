"""Divide images into those to learn from and those to test on."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gmsop.errors import ConfigError, DataError
from gmsop.probe.features import Features


def make_groups(features: Features, folds: int, seed: int) -> tuple[list[NDArray[np.int64]], int]:
    """Return groups of images that together are all, and how many of them, from the first on, are to be tested on.

    With a split of its own the data has two groups, of which the first is tested on. Without, every image is tested on
    once, by a classifier that learnt from the other folds; folds are stratified.

    Raises:
        ConfigError, DataError: see `require_images`.
    """
    require_images(features.labels, features.is_test, features.class_names, folds)
    if features.is_test is not None:
        return [np.flatnonzero(features.is_test), np.flatnonzero(~features.is_test)], 1
    rng = np.random.default_rng(seed)
    fold = np.empty(len(features), np.int64)
    start = 0
    for label in range(len(features.class_names)):
        rows = rng.permutation(np.flatnonzero(features.labels == label))
        fold[rows] = (
            start + np.arange(len(rows))
        ) % folds  # classes begin at different folds, so that all are as large
        start += len(rows)
    return [np.flatnonzero(fold == k) for k in range(folds)], folds


def require_images(
    labels: NDArray[np.int64], is_test: NDArray[np.bool_] | None, class_names: Sequence[str], folds: int
) -> None:
    """Refuse data that folds cannot be made of.

    Raises:
        ConfigError: fewer than two folds.
        DataError: fewer images of a class than folds, or fewer than two training images of a class.
    """
    if is_test is None and folds < 2:
        raise ConfigError(f"folds must be at least 2, got {folds}")
    least, kind = (folds, "") if is_test is None else (2, "training ")
    counts = np.bincount(labels if is_test is None else labels[~is_test], minlength=len(class_names))
    if few := [f"{class_names[i]} ({n})" for i, n in enumerate(counts) if 0 < n < least]:
        hint = ": use fewer folds, or more images" if is_test is None else ""
        raise DataError(f"fewer than {least} {kind}images of class {', '.join(few[:5])}{hint}")


def held_out(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Choose a share of each class's images, at least one where it has two, to hold out for choosing settings."""
    rng = np.random.default_rng(seed)
    out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        out[rows[: max(1, round(share * len(rows))) if len(rows) > 1 else 0]] = True
    return out
