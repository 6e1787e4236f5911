"""This file translates MatConvNet's names and array layouts into ours.

The names are flat: `conv3_1a_f` is the first convolution of the first block of the second stage, `gating1_f` a
prediction layer of the gate, `CM_7_b_f` the second convolution of the seventh component. Suffixes: `_f` filter, `_b`
bias, `_w` scale, `_m` BatchNorm moments (mean, sigma).
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gmsop.backbones.small import BasicBlock, SmallImageResNet
from gmsop.errors import CheckpointError
from gmsop.models.classifier import PooledClassifier
from gmsop.nn import GatedMixture, ParametricSOP

BN_EPS = 1e-5
Array = NDArray[Any]
Arrays = dict[str, Array]


def state_from(model: PooledClassifier, params: Arrays) -> dict[str, Tensor]:
    """Return the model's state dict in float64 from a checkpoint's arrays: every array is used, every entry filled.

    Raises:
        CheckpointError: arrays missing, left over, or of a shape that is not the model's; each is named.
    """
    state: dict[str, Tensor] = {}
    wanted = model.state_dict()
    used = set()
    missing: dict[str, str] = {}
    wrong: dict[str, str] = {}  # a dict, as two entries come from one array of BatchNorm's moments
    for source, key, convert in _pairs(model):
        used.add(source)
        if source not in params:
            missing[source] = source
            continue
        try:
            value = torch.from_numpy(np.ascontiguousarray(convert(params[source]), np.float64))
        except (IndexError, TypeError, ValueError):  # not an array of numbers, or with too few or too many axes
            value = torch.empty(0)
        if value.shape == wanted[key].shape and not value.isfinite().all():
            wrong[source] = f"{source} (holds NaN or infinity)"
        elif value.shape == wanted[key].shape:
            state[key] = value
        else:
            wrong[source] = f"{source} {params[source].shape}, for {key} {tuple(wanted[key].shape)}"
    state |= {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in wanted.items() if k.endswith("num_batches_tracked")}
    leftover = [name for name in params if name not in used]
    problems = {"missing": list(missing), "of a wrong shape or content": list(wrong.values()), "left over": leftover}
    if any(problems.values()):
        text = "; ".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in problems.items() if names)
        raise CheckpointError(f"the parameters do not fit {model.pretrained_cfg['architecture']}: {text}")
    return state


def _pairs(model: PooledClassifier) -> Iterator[tuple[str, str, Callable[[Array], Array]]]:
    """Yield for every learnt or averaged tensor MatConvNet's name, ours, and the function from its layout to ours."""
    for source, key, module in named_layers(model):
        if isinstance(module, nn.Conv2d):
            yield f"{source}_f", f"{key}.weight", as_filter
            if module.bias is not None:
                yield f"{source}_b", f"{key}.bias", np.ravel
        elif isinstance(module, nn.Linear):
            yield f"{source}_f", f"{key}.weight", lambda array: _matrix(as_filter(array))
            yield f"{source}_b", f"{key}.bias", np.ravel
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            yield f"{source}_w", f"{key}.weight", np.ravel
            yield f"{source}_b", f"{key}.bias", np.ravel
            yield f"{source}_m", f"{key}.running_mean", lambda array: _matrix(array)[:, 0]
            yield f"{source}_m", f"{key}.running_var", lambda array: _variance(_matrix(array)[:, 1])
    if isinstance(model.pool, GatedMixture):
        yield "gating_w", "pool.gate.weight", lambda array: _matrix(array).T
        yield "gating_noise_w", "pool.gate.noise_weight", lambda array: _matrix(array).T


def named_layers(model: PooledClassifier) -> Iterator[tuple[str, str, nn.Module]]:
    """Yield MatConvNet's name, ours, and the module, for every layer with parameters."""

    def conv_norm(source: str, key: str) -> Iterator[tuple[str, str, nn.Module]]:
        yield source, f"{key}.conv", model.get_submodule(f"{key}.conv")
        yield f"{source}_bn", f"{key}.bn", model.get_submodule(f"{key}.bn")

    assert isinstance(model.backbone, SmallImageResNet)
    yield from conv_norm("conv1", "backbone.stem")
    stages = cast(list[list[BasicBlock]], model.backbone.stages)
    for s, stage in enumerate(stages):
        for b, block in enumerate(stage):
            name, key = f"conv{s + 2}_{b + 1}", f"backbone.stages.{s}.{b}"
            yield from conv_norm(f"{name}a", f"{key}.a")
            yield from conv_norm(f"{name}b", f"{key}.b")
            if not isinstance(block.shortcut, nn.Identity):
                yield from conv_norm(f"{name}_adapt_conv", f"{key}.shortcut")
    if isinstance(model.pool, GatedMixture):
        for i, layer in enumerate(cast(list[nn.Sequential], model.pool.gate.predict)):
            yield f"gating{i + 1}", f"pool.gate.predict.{i}.0", layer[0]
            yield f"gating{i + 1}_bn", f"pool.gate.predict.{i}.1", layer[1]
        for n, component in enumerate(model.pool.components):
            convs = ("conv1", "conv2") if isinstance(component, ParametricSOP) else ("conv",)
            for letter, conv in zip("ab", convs, strict=False):
                yield f"CM_{n + 1}_{letter}", f"pool.components.{n}.{conv}", getattr(component, conv)
    elif isinstance(model.pool, ParametricSOP):
        yield "CM_1_a", "pool.conv1", model.pool.conv1
        yield "CM_1_b", "pool.conv2", model.pool.conv2
    if isinstance(model.norm, nn.BatchNorm1d):
        yield "fusion_bn_bn", "norm", model.norm
    yield "prediction", "fc", model.fc


def as_filter(array: Array) -> Array:
    """Turn MATLAB's (height, width, in, out), which drops trailing axes of one, into (out, in, height, width)."""
    return array.reshape(array.shape + (1,) * (4 - array.ndim)).transpose(3, 2, 0, 1)


def _matrix(array: Array) -> Array:
    """Return MATLAB's (rows, columns) without trailing axes of one."""
    return array.reshape(array.shape[:2]) if array.size == np.prod(array.shape[:2]) else array


def _variance(sigma: Array) -> Array:
    """Return the variance of sigma = sqrt(variance + eps); a sigma of 0 was never updated, and gives 0."""
    sigma = sigma.astype(np.float64)
    return np.where(sigma == 0, 0.0, sigma**2 - BN_EPS)
