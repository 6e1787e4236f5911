"""Make a model of what a comparison chose: one file that predicts, exports and can be fine-tuned."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from gmsop.backbones.timm_models import TimmBackbone
from gmsop.errors import ConfigError
from gmsop.models import PooledClassifier, attach
from gmsop.nn import MultiLayerPool
from gmsop.nn.moments import Moments
from gmsop.nn.multi_layer import NORM
from gmsop.probe.comparison import Comparison
from gmsop.probe.extraction import WHOLE, frozen_backbone
from gmsop.probe.features import Features
from gmsop.probe.registry import PROBES
from gmsop.probe.ridge import RidgePath
from gmsop.probe.vectors import Block, balanced, off_diagonal_scale, pooled
from gmsop.weights.fingerprint import fingerprint
from gmsop.weights.pretrained import load_backbone


@dataclass(frozen=True)
class _Linear:
    weight: Tensor
    bias: Tensor


def fit_model(features: Features, comparison: Comparison, epochs: int = 20) -> PooledClassifier:
    """Fit what the comparison chose to all images that may be learnt from, as a model on its backbone.

    Its probabilities are those of the ridge classifier's scores, sharpened by the factor that makes the left-out
    training images likeliest; its answers are the probe's.

    Args:
        epochs: of a trained head.

    Raises:
        ConfigError: the backbone's weights are not those that the features were computed with.
    """
    _, head, layer, outcome = comparison.winner
    rows = np.arange(len(features)) if features.is_test is None else np.flatnonzero(~features.is_test)
    trunk = frozen_backbone(features.backbone, features.layers, features.meta["weights"]["from"])
    if fingerprint(trunk.model) != features.meta["weights"]["sha256"]:
        raise ConfigError(f"the weights of {features.backbone} are not those that {features.path} was computed with")
    classes = len(features.class_names)
    if outcome.part is not None:
        build = PROBES[head].build
        assert build is not None
        trained = build(features, layer, rows, outcome, epochs, comparison.seeds[0])
        model = attach(features.backbone, [outcome.part], classes, layers=[layer])
        model.pool.load_state_dict(trained.pool.state_dict())
        model.fc.load_state_dict(trained.fc.state_dict())
    else:
        model = _of_blocks(features, outcome.blocks, outcome.choice.setting["penalty"], rows)
    assert isinstance(model.backbone, TimmBackbone)
    load_backbone(model.backbone, trunk.model.state_dict(), features.backbone)
    how = features.meta["preprocess"]
    side = how["image_size"]
    model.pretrained_cfg.update(
        input_size=(3, side, side), mean=tuple(how["mean"]), std=tuple(how["std"]), interpolation=how["filter_name"],
        label_names=features.class_names, **WHOLE,
    )  # fmt: skip
    return model.eval()


def _of_blocks(features: Features, blocks: tuple[Block, ...], penalty: float, rows: np.ndarray) -> PooledClassifier:
    """Build the model whose pooled vectors are those of the blocks, and whose classifier is the ridge classifier."""
    heads = [
        {"head": "gap"}
        if block.order == 1
        else {"head": "sr_sop", "reduced_dim": block.dim, "init": "pca", "root": block.root}
        for block in blocks
    ]
    labels, classes = features.labels[rows], len(features.class_names)
    model = attach(features.backbone, heads, classes, layers=[block.layer for block in blocks])
    vectors, scales = [], []
    assert isinstance(model.pool, MultiLayerPool)
    for block, pool in zip(blocks, model.pool.pools, strict=True):
        components = None
        if block.order == 2:
            components = Moments.of(features.batches(block.layer, rows)).components(block.dim).float()
            with torch.no_grad():
                cast(Any, pool).reduce[0].weight.copy_(components.T[:, :, None, None])
        found = pooled(features, [block], components, rows)[0]
        vectors.append(balanced(found, block) / len(blocks) ** 0.5)
        scales.append(off_diagonal_scale(block, found.shape[1]) / len(blocks) ** 0.5 / NORM)
    linear = _ridge(torch.cat(vectors, 1), labels, classes, penalty)
    model.fc.load_state_dict({"weight": linear.weight * torch.cat(scales), "bias": linear.bias})
    return model


def _ridge(vectors: Tensor, labels: np.ndarray, classes: int, penalty: float) -> _Linear:
    """Return weights (classes, V) and bias of the scores, sharpened so that their softmax is a probability."""
    path = RidgePath.of((vectors @ vectors.T).double(), labels, classes)
    sharpness = _sharpness(path.leave_one_out(penalty), torch.from_numpy(labels))
    dual = path.dual(penalty)
    weight = dual.T.float() @ vectors
    bias = path.means.float() - weight @ vectors.mean(0)
    return _Linear(weight * sharpness, bias * sharpness)


def _sharpness(scores: Tensor, labels: Tensor) -> float:
    """Return the factor on scores that makes the right classes likeliest.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), temperature scaling.
    """

    def loss(exponent: float) -> float:
        return float(F.cross_entropy(scores * 10**exponent, labels))

    return float(10 ** minimize_scalar(loss, bounds=(-2, 3), method="bounded").x)
