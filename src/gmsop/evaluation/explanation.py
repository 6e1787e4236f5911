"""Say what decided about an image: the gate's choice, where features vary, which channel pairs move the logit."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gmsop.backbones.dry_run import evaluating
from gmsop.data.image_sources import FoundImage
from gmsop.data.preprocess import Preprocess
from gmsop.errors import ConfigError, DataError, UnknownNameError
from gmsop.evaluation.batches import NOT_FINITE
from gmsop.models.classifier import PooledClassifier
from gmsop.nn import GlobalAvgPool, ISqrtCovPool
from gmsop.nn.pooling import EPS
from gmsop.ops import covariance_pool, eigh_sqrt, newton_schulz_sqrt, triu_vectorize


@dataclass(frozen=True)
class Part:
    """Holds what one pooling made of the image: a component of a mixture, a layer, or the head."""

    name: str
    component: int | None
    """Its number in the mixture."""
    weight: float | None
    """The gate's weight for it; None without a gate."""
    energy: NDArray[np.float32]
    """(h, w): share of each position in the features' variance (of their mean size, where the mean is pooled)."""
    contributions: NDArray[np.float64]
    """(D, D) symmetric: gradient of the class's logit by the covariance, times the covariance; or (D,) for a mean."""
    features: NDArray[np.float32]
    """(D, h, w): what was pooled."""

    def strongest(self, count: int) -> list[tuple[int, int, float]]:
        """Return the channel pairs (i <= j) whose covariance moves the logit most, with how far; for a mean, i = j."""
        if self.contributions.ndim == 1:
            order = np.abs(self.contributions).argsort()[::-1][:count]
            return [(int(i), int(i), float(self.contributions[i])) for i in order]
        both = np.triu(self.contributions) + np.triu(self.contributions, 1)  # a pair stands in two places
        rows, columns = np.triu_indices(len(both))
        order = np.abs(both[rows, columns]).argsort()[::-1][:count]
        return [(int(rows[k]), int(columns[k]), float(both[rows[k], columns[k]])) for k in order]

    def pair_map(self, i: int, j: int) -> NDArray[np.float32]:
        """Return where two channels vary together, (h, w): their product at each position, without their means."""
        a, b = (self.features[k] - self.features[k].mean() for k in (i, j))
        return a * b


@dataclass(frozen=True)
class Explanation:
    """Holds what is to be said of the answer for one image."""

    name: str
    pixels: NDArray[np.uint8]
    """(S, S, 3): what the model saw."""
    classes: list[tuple[str, float]]
    """The likeliest classes with their probabilities."""
    explained: str
    """The class whose logit is explained."""
    probability: float
    """Of that class."""
    logit: float
    parts: list[Part]
    """By weight, the largest first."""


def explain(
    model: PooledClassifier, image: FoundImage, class_name: str | None = None, exif_orientation: bool = True
) -> Explanation:
    """Explain the logit of one class for one image.

    A covariance that is k times as large makes a second-order vector the root of k times as large, so that the
    contributions of all channel pairs of all parts add up to half of what the representation contributes to the logit.

    Args:
        class_name: the class; None: the likeliest.

    Raises:
        ConfigError: the model has no classifier, or its head pools by nothing that is known here; tokens that are no
            square of patches.
        UnknownNameError: no such class; the text lists the nearest.
        DataError, OSError: the image cannot be read.
    """
    cfg = model.pretrained_cfg
    if model.num_classes < 1 or model.in_chans != 3:
        raise ConfigError("explain needs a model with a classifier that takes RGB images")
    names: list[str] = cfg.get("label_names") or [str(i) for i in range(model.num_classes)]
    if class_name is not None and class_name not in names:
        raise UnknownNameError.of("class", class_name, names)
    how = replace(Preprocess.of(cfg), exif_orientation=exif_orientation)
    pixels = how.fit(image.decode(exif_orientation))
    like = next(model.parameters())
    inputs = how.input(torch.tensor(pixels)[None].to(like.device), like.dtype).requires_grad_()
    with evaluating(model), torch.enable_grad(), _pooled(model) as seen:
        logits, routing = model(inputs, return_routing=True)
        if not seen:
            raise ConfigError("explain: the head pools neither by a mean nor by a covariance that is known here")
        if not logits.isfinite().all():
            raise DataError(NOT_FINITE)
        probabilities = logits[0].detach().float().softmax(0)
        index = int(probabilities.argmax()) if class_name is None else names.index(class_name)
        grads = torch.autograd.grad(logits[0, index], [vector for *_, vector in seen], allow_unused=True)
    weights = {}
    if routing is not None:
        weights = dict(zip(routing.indices[0].tolist(), routing.gates[0].tolist(), strict=True))
    seen = [(place, module, _as_map(model, features), vector) for place, module, features, vector in seen]
    parts = [
        _part(place, module, features, torch.zeros_like(vector) if grad is None else grad, weights)
        for (place, module, features, vector), grad in zip(seen, grads, strict=True)
    ]
    parts.sort(key=lambda part: -(part.weight or 0.0))
    best = probabilities.topk(min(5, len(names)))
    classes = [(names[i], p) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
    logit, probability = float(logits[0, index].detach()), float(probabilities[index])
    return Explanation(image.name, pixels, classes, names[index], probability, logit, parts)


_Seen = list[tuple[str, nn.Module, Tensor, Tensor]]


@contextmanager
def _pooled(model: PooledClassifier) -> Iterator[_Seen]:
    """Yield the list that the next call fills: each pooling's place, the module, what it pooled and its vector.

    With a hook on it, no component is fused with others: each that is chosen is called.
    """
    seen: _Seen = []

    def hook(place: str) -> Any:
        def note(module: nn.Module, given: tuple[Tensor, ...], vector: Tensor) -> None:
            x = given[0]
            with torch.no_grad():
                reduced = module.reduce(x) if isinstance(module, ISqrtCovPool) else x
            seen.append((place, module, reduced.detach(), vector))

        return note

    handles = [
        module.register_forward_hook(hook(place))
        for place, module in model.pool.named_modules()
        if isinstance(module, ISqrtCovPool | GlobalAvgPool) and "gate" not in place.split(".")
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _as_map(model: PooledClassifier, features: Tensor) -> Tensor:
    """Lay a transformer's tokens (1, D, M, 1) out as the square of patches that they are, row by row.

    Raises:
        ConfigError: they are no square, so that where they lie in the image is not known.
    """
    if model.output_fmt != "NLC" or features.shape[3] != 1:
        return features
    side = math.isqrt(features.shape[2])
    if side * side != features.shape[2]:
        raise ConfigError(f"explain: {features.shape[2]} tokens are no square: where they lie is not known")
    return features.reshape(*features.shape[:2], side, side)


def _part(place: str, module: nn.Module, features: Tensor, grad: Tensor, weights: dict[int, float]) -> Part:
    x, gradient = features[0].double(), grad[0].double()
    if isinstance(module, ISqrtCovPool):
        centred = x - x.mean((1, 2), keepdim=True)
        energy = centred.square().sum(0)
        contributions = _by_covariance(module, x, gradient)
    else:
        energy = x.abs().sum(0)
        contributions = gradient * x.mean((1, 2))
    total = energy.sum().clamp_min(torch.finfo(torch.float64).tiny)
    words = place.split(".")
    component = int(words[words.index("components") + 1]) if "components" in words else None
    layer = f"layer {int(words[words.index('pools') + 1]) + 1}" if "pools" in words else ""
    name = " ".join(filter(None, [layer, f"component {component}" if component is not None else ""])) or "head"
    return Part(
        name, component, None if component is None else weights.get(component, 0.0),
        (energy / total).float().cpu().numpy(), contributions.cpu().numpy(), x.float().cpu().numpy(),
    )  # fmt: skip


def _by_covariance(module: ISqrtCovPool, x: Tensor, gradient: Tensor) -> Tensor:
    """Return gradient by the covariance times the covariance, (D, D), from the gradient by the vector (V,)."""
    cov = covariance_pool(x[None].flatten(2)).detach().requires_grad_()
    with torch.enable_grad():
        root = cov
        if module.root == "newton_schulz":
            root = newton_schulz_sqrt(cov, module.num_iters)
        elif module.root == "eigh":
            root = eigh_sqrt(cov)
        elif module.root == "power":
            root = cov.sign() * (cov.abs() + EPS).sqrt()
        (by_cov,) = torch.autograd.grad(triu_vectorize(root), cov, gradient[None])
    contributions = (by_cov * cov).detach()[0]
    return (contributions + contributions.T) / 2
