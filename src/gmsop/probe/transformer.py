"""Second-order pooling as a step of a scikit-learn pipeline."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.nn import functional as F

from gmsop.errors import ConfigError
from gmsop.nn import ISqrtCovPool
from gmsop.nn.moments import Moments
from gmsop.nn.pooling import Root
from gmsop.probe.vectors import Block, balanced

BATCH = 256


class SecondOrderPooling(TransformerMixin, BaseEstimator):
    """Turn arrays of maps (n, C, H, W) into vectors (n, D (D + 1) / 2): `fit` finds components, `transform` pools.

    `make_pipeline(SecondOrderPooling(64), RidgeClassifier(0.1))` is a classifier of maps. Needs scikit-learn, which
    comes with the extra `probe`.

    Args:
        dim: D, principal components of the channels over all positions; None: the channels as they are.
        num_iters: Newton-Schulz iterations.
        root: see `gmsop.nn.ISqrtCovPool`.
        normalize: scale each vector to norm 1.

    Attributes:
        components_: (C, D), after `fit`.

    Raises:
        ConfigError: in `fit` and `transform`, something else than maps of at least two positions, numbers that are not
            finite, or more components than channels.
    """

    def __init__(
        self, dim: int | None = 64, num_iters: int = 3, root: Root = "newton_schulz", normalize: bool = True
    ) -> None:
        self.dim, self.num_iters, self.root, self.normalize = dim, num_iters, root, normalize

    def fit(self, x: NDArray[Any], y: object = None) -> "SecondOrderPooling":
        """Find the principal components of maps (n, C, H, W). `y` is not used."""
        x = _maps(x)
        channels = x.shape[1]
        if self.dim is not None and not 1 <= self.dim <= channels:
            raise ConfigError(f"SecondOrderPooling: dim must be from 1 to the {channels} channels, got {self.dim}")
        if self.dim is None:
            self.components_ = np.eye(channels, dtype=np.float32)
        else:
            self.components_ = Moments.of(_batches(x)).components(self.dim).float().numpy()
        self.n_features_in_ = channels
        return self

    def transform(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return the vectors (n, D (D + 1) / 2); elements off the diagonal are scaled by sqrt(2)."""
        check_is_fitted(self, "components_")
        x = _maps(x)
        if x.shape[1] != self.n_features_in_:
            raise ConfigError(f"SecondOrderPooling: fitted on {self.n_features_in_} channels, got {x.shape[1]}")
        dim = self.components_.shape[1]
        pool = ISqrtCovPool(dim, num_iters=self.num_iters, root=self.root)
        weight = torch.from_numpy(self.components_).T[:, :, None, None]
        found = []
        for batch in _batches(x):
            vectors = pool(F.conv2d(batch, weight))
            if self.normalize:
                vectors = F.normalize(vectors, dim=1, eps=1e-6)
            found.append(balanced(vectors, Block("", 2, dim)))
        return torch.cat(found).numpy()

    def get_feature_names_out(self, input_features: object = None) -> NDArray[Any]:
        """Return a name for each number: row and column of the matrix."""
        check_is_fitted(self, "components_")
        rows, columns = np.tril_indices(self.components_.shape[1])
        return np.array([f"cov_{column}_{row}" for row, column in zip(rows, columns, strict=True)], object)


def _maps(x: Any) -> NDArray[Any]:
    x = np.asarray(x)
    if x.ndim != 4 or x.shape[0] == 0 or x.shape[2] * x.shape[3] < 2 or x.dtype.kind != "f":
        raise ConfigError(
            f"SecondOrderPooling: expected maps (n, C, H, W) of floating-point numbers, at least two positions each, "
            f"got {x.dtype} {x.shape}"
        )
    if not np.isfinite(x).all():
        raise ConfigError("SecondOrderPooling: the maps have numbers that are not finite")
    return x


def _batches(x: NDArray[Any]) -> Iterator[Tensor]:
    for start in range(0, len(x), BATCH):
        yield torch.from_numpy(np.ascontiguousarray(x[start : start + BATCH], np.float32))
