"""Turn images into vectors, as a search index takes them, and look for the nearest."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gmsop.backbones.protocol import BackboneModule
from gmsop.data.image_sources import FoundImage
from gmsop.data.preprocess import Preprocess
from gmsop.errors import ConfigError, DataError
from gmsop.evaluation.batches import NOT_FINITE, in_batches
from gmsop.models.classifier import PooledClassifier
from gmsop.nn import GatedMixture
from gmsop.utils.files import writing
from gmsop.utils.text import printable

Floats = NDArray[np.float32]
FIT_ON = 10_000
"""Most images that a whitening is fitted on."""


def pooled(model: PooledClassifier, inputs: Tensor) -> Tensor:
    """Return what the classifier sees; of a mixture, weighted by its gate."""
    return model.forward_head(model.forward_features(inputs), pre_logits=True)


def ungated(model: PooledClassifier, inputs: Tensor) -> Tensor:
    """Return the mean over all components of a mixture, whatever its gate says."""
    if not isinstance(model.pool, GatedMixture):
        raise ConfigError("vectors ungated: the head is no mixture")
    x = _map(model, inputs)
    return torch.stack([component(x) for component in model.pool.components]).mean(0)


def average(model: PooledClassifier, inputs: Tensor) -> Tensor:
    """Return the mean of the backbone's features, whatever the head is."""
    maps = _map(model, inputs)
    return torch.cat([each.mean((2, 3)) for each in (maps if isinstance(maps, tuple) else (maps,))], 1)


def _map(model: PooledClassifier, inputs: Tensor) -> Any:
    features = model.forward_features(inputs)
    return model.backbone.positions(features)[0] if isinstance(model.backbone, BackboneModule) else features


VECTORS: dict[str, Callable[[PooledClassifier, Tensor], Tensor]] = {
    each.__name__: each for each in (pooled, ungated, average)
}
"""The kinds of vectors, by name."""


@dataclass(frozen=True)
class Whitening:
    """Projects vectors on principal components, each scaled to the same variance."""

    mean: Floats
    """(V,)."""
    projection: Floats
    """(V, dim)."""
    of: str = ""
    """Of which vectors of which model it is; empty: it is not said."""

    @classmethod
    def fit(cls, vectors: Floats, dim: int) -> "Whitening":
        """Fit to vectors (n, V), by scikit-learn's PCA.

        Raises:
            ConfigError: scikit-learn is missing; there are fewer vectors, or fewer numbers in them, than `dim`.
        """
        try:
            from sklearn.decomposition import PCA
        except ImportError as error:
            raise ConfigError("whitening needs scikit-learn: pip install 'gmsop[probe]'") from error
        if not 1 <= dim < len(vectors) or dim > vectors.shape[1]:
            raise ConfigError(
                f"whitening to {dim} numbers: {len(vectors)} images with vectors of {vectors.shape[1]} allow up to "
                f"{min(len(vectors) - 1, vectors.shape[1])}"
            )
        found = PCA(dim, whiten=True, random_state=0).fit(vectors)
        scale = np.sqrt(np.maximum(found.explained_variance_, np.finfo(np.float32).tiny))
        return cls(found.mean_.astype(np.float32), (found.components_.T / scale).astype(np.float32))

    def __call__(self, vectors: Floats) -> Floats:
        return ((vectors - self.mean) @ self.projection).astype(np.float32)

    @property
    def fingerprint(self) -> str:
        """Return a checksum, by which vectors of another whitening are told apart."""
        return hashlib.sha256(self.mean.tobytes() + self.projection.tobytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Write a .npz file.

        Raises:
            WriteError: no space, no permission.
        """
        with writing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, mean=self.mean, projection=self.projection, of=np.array(self.of))

    @classmethod
    def load(cls, path: Path) -> "Whitening":
        """Read a file of `save`.

        Raises:
            DataError: it is none.
        """
        try:
            with np.load(path, allow_pickle=False) as found:
                mean, projection = found["mean"], found["projection"]
                of = str(found["of"]) if "of" in found else ""
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise DataError(f"{path}: no whitening ({error})") from error
        if mean.ndim != 1 or projection.ndim != 2 or len(mean) != len(projection):
            raise DataError(f"{path}: no whitening (shapes {mean.shape} and {projection.shape})")
        return cls(mean, projection, of)


@dataclass(frozen=True)
class Embedded:
    """Holds the vector of an image, or why it could not be read."""

    name: str
    vector: Floats | None
    error: str | None


def embedded(
    model: PooledClassifier,
    images: Iterable[FoundImage],
    vectors: str = "pooled",
    whitening: Whitening | None = None,
    normalize: bool = True,
    exif_orientation: bool = True,
    **settings: Any,
) -> Iterator[Embedded]:
    """Yield the vector of each image, in their order.

    Args:
        vectors: a name of `VECTORS`.
        normalize: scale every vector to length 1, so that inner products are cosines.
        settings: see `in_batches`.

    Raises:
        ConfigError: the model does not take RGB images; no such vectors, or the head has none; the whitening is of
            vectors of another length.
    """
    if vectors not in VECTORS:
        raise ConfigError(f"vectors are {', '.join(VECTORS)}, got {vectors!r}")
    if model.in_chans != 3:
        raise ConfigError("embed needs a model that takes RGB images")
    if vectors == "ungated" and not isinstance(model.pool, GatedMixture):
        raise ConfigError("vectors ungated: the head is no mixture")
    how = replace(Preprocess.of(model.pretrained_cfg), exif_orientation=exif_orientation)

    def compute(replica: PooledClassifier, inputs: Tensor) -> Floats:
        found = VECTORS[vectors](replica, inputs).float()
        if whitening is None:
            return (F.normalize(found) if normalize else found).cpu().numpy()
        if found.shape[1] != len(whitening.mean):
            raise ConfigError(f"whitening of vectors of {len(whitening.mean)}, these have {found.shape[1]}")
        white = torch.from_numpy(whitening(found.cpu().numpy()))
        return (F.normalize(white) if normalize else white).numpy()

    return _unpacked(in_batches(model, images, compute, how, **settings))


def _unpacked(batches: Iterator[Any]) -> Iterator[Embedded]:
    for names, reasons, rows, answer in batches:
        for name, reason, row in zip(names, reasons, rows, strict=True):
            vector = None if answer is None or row < 0 else answer[row]
            if vector is not None and not np.isfinite(vector).all():
                vector, reason = None, f"{printable(name)}: {NOT_FINITE}"
            yield Embedded(name, vector, reason)


def nearest(vectors: Floats, queries: Floats, count: int) -> tuple[NDArray[np.int64], Floats]:
    """Return for each query (q, V) the rows of the vectors (n, V) with the largest inner products, and these."""
    scores = torch.from_numpy(queries) @ torch.from_numpy(vectors).T
    best = scores.topk(min(count, len(vectors)), 1)
    return best.indices.numpy(), best.values.numpy()


def recall_at(
    vectors: Floats, labels: Sequence[int] | NDArray[np.int64], ks: Sequence[int] = (1, 2, 4, 8)
) -> dict[int, float]:
    """Return the share of images, in percent, of which the k nearest others have one of the same class, for each k.

    Args:
        vectors: (n, V), of length 1 for cosines.
        labels: (n,).

    Raises:
        DataError: there are fewer than two images.
    """
    if len(vectors) < 2:
        raise DataError("recall needs at least two images")
    given, marks = torch.from_numpy(vectors), torch.as_tensor(np.asarray(labels))
    most = min(max(ks), len(given) - 1)
    right = []
    for start in range(0, len(given), 512):
        scores = given[start : start + 512] @ given.T
        rows = torch.arange(len(scores))
        scores[rows, rows + start] = -torch.inf
        order = scores.topk(most, 1).indices
        right.append(marks[order] == marks[start : start + 512, None])
    hits = torch.cat(right)
    return {k: 100 * float(hits[:, :k].any(1).float().mean()) for k in ks}
