"""The authors' weights: a MatConvNet checkpoint, as their training saves it, to a gmsop model.

MatConvNet's names are flat: `conv3_1a_f` is the first convolution of the first block of the second stage, `gating1_f` a
prediction layer of the gate, `CM_7_b_f` the second convolution of the seventh component. Suffixes: `_f` filter, `_b`
bias, `_w` scale, `_m` BatchNorm moments (mean, sigma).
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gmsop.assembly import BACKBONES, head_options
from gmsop.errors import CheckpointError
from gmsop.files import digest
from gmsop.matfile import read_variable
from gmsop.models import create_model
from gmsop.nn import GatedMixture, ParametricSOP, PooledClassifier, SmallImageResNet
from gmsop.nn.backbones import BasicBlock
from gmsop.ops import triu_size
from gmsop.published import MATCONVNET_MD5

BN_EPS = 1e-5
Arrays = dict[str, NDArray[Any]]


class Identity(NamedTuple):
    """What a set of parameters is: the arguments of `create_model`."""

    name: str
    num_classes: int
    in_chans: int
    overrides: dict[str, Any]


def load_matconvnet(path: str | Path, dtype: torch.dtype = torch.float32) -> PooledClassifier:
    """The model a MatConvNet checkpoint holds, in evaluation mode.

    Which of the official models it is, and all its widths, are read from the arrays; top-K, the number of iterations
    and the dropout rate from the layers' settings. Running variances are sigma^2 - eps, computed in double precision:
    with `dtype=torch.float64` the model agrees with the authors' code to rounding. `model.pretrained_cfg` says how
    images are prepared (`mean` and `std` in timm's units: pixels minus the file's RGB mean, undivided), and under
    `source` which file it came from: its MD5, and whether that is one the authors published.

    Args:
        path: `net-epoch-*.mat`, v5 to v7.3.
        dtype: of the model's parameters.

    Raises:
        CheckpointError: no such file; damaged; not a GM-SOP network; a parameter missing, left over or of a wrong
            shape, named.
    """
    net = read_variable(path, "net")
    params = _params(path, net)
    identity = identify(params, _settings(net))
    model = create_model(identity.name, identity.num_classes, identity.in_chans, **identity.overrides).to(dtype)
    try:
        model.load_state_dict({name: value.to(dtype) for name, value in _state(model, params).items()}, strict=True)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    _describe_input(model, path, net)
    return model.eval()


def identify(params: Mapping[str, NDArray[Any]], settings: Mapping[str, Any] | None = None) -> Identity:
    """Which model has these parameters (MatConvNet's names, MATLAB's axis order).

    Args:
        settings: `top_k`, `num_iters`, `drop_rate`, which leave no trace in the parameters; the official values of the
            model if absent.

    Raises:
        CheckpointError: the parameters are not those of a GM-SOP network.
    """
    blocks: dict[int, int] = {}
    for name in params:
        if found := re.fullmatch(r"conv(\d+)_(\d+)a_f", name):
            stage = int(found[1]) - 2
            blocks[stage] = max(blocks.get(stage, 0), int(found[2]))
    needed = ["conv1_f", "prediction_f", *(f"conv{s + 2}_1a_f" for s in range(len(blocks) or 1))]
    if missing := [name for name in needed if name not in params]:
        raise CheckpointError(f"not a GM-SOP network: no parameter {', '.join(missing)}")

    def channels(name: str, axis: int) -> int:
        return _filter(params[name]).shape[axis]

    body: dict[str, Any] = {
        "blocks": tuple(blocks[s] for s in range(len(blocks))),
        "widths": tuple(channels(f"conv{s + 2}_1a_f", 0) for s in range(len(blocks))),
        "project_first": "conv2_1_adapt_conv_f" in params,
        "stem_width": channels("conv1_f", 0),
    }
    backbone = _nearest_backbone(body)
    features, num_components = channels("prediction_f", 1), len(_matching(params, r"CM_\d+_a_f"))
    head, options = _identify_head(params, channels, features, body["widths"][-1], num_components)
    options |= {k: v for k, v in (settings or {}).items() if v is not None and k in head_options(backbone, head)}
    if head.startswith("gm_"):
        options.setdefault("top_k", min(head_options(backbone, head)["top_k"], num_components))
    official = {"project_first": False, "stem_width": 16, **BACKBONES[backbone], **head_options(backbone, head)}
    overrides = {k: v for k, v in (body | options).items() if v != official[k]}
    name = {"gm_gap": "gm_gap_16_8", "gm_sop": "gm_sop_16_8"}.get(head, head)
    return Identity(f"{name}_{backbone}", channels("prediction_f", 0), channels("conv1_f", 1), overrides)


def _identify_head(
    params: Mapping[str, NDArray[Any]], channels: Any, features: int, width: int, num_components: int
) -> tuple[str, dict[str, Any]]:
    if num_components:
        second_order = "CM_1_b_f" in params
        options: dict[str, Any] = {"reduced_dim": channels("CM_1_b_f" if second_order else "CM_1_a_f", 0)}
        if second_order:
            options["hidden_dim"] = channels("CM_1_a_f", 0)
        gate = _matching(params, r"gating\d+_f")
        if not gate and second_order and num_components == 1:
            return "parametric_sop", options
        options["num_components"] = num_components
        options["gate_dims"] = tuple(channels(name, 0) for name in sorted(gate))
        return "gm_sop" if second_order else "gm_gap", options
    if features == width:
        return "gap", {}
    if features == triu_size(width):
        return "sr_sop", {"reduced_dim": None}
    raise CheckpointError(
        f"the classifier takes {features} numbers, neither {width} (average pooling of the last stage) nor "
        f"{triu_size(width)} (second-order pooling), and there are no components"
    )


def _nearest_backbone(body: Mapping[str, Any]) -> str:
    if body["project_first"]:
        return "wrn36_2"
    return "resnet50" if body["blocks"] == BACKBONES["resnet50"]["blocks"] else "resnet18"


def _matching(params: Mapping[str, Any], pattern: str) -> list[str]:
    return [name for name in params if re.fullmatch(pattern, name)]


def _state(model: PooledClassifier, params: Arrays) -> dict[str, Tensor]:
    """The model's state dict in float64, from the arrays; every array used once, every entry filled."""
    state: dict[str, Tensor] = {}
    wanted = model.state_dict()
    used = set()
    missing: dict[str, str] = {}
    wrong: dict[str, str] = {}  # dicts keep the order and drop the second entry of BatchNorm's moments
    for source, key, value in _pairs(model, params):
        used.add(source)
        if value is None:
            missing[source] = source
        elif value.shape != wanted[key].shape:
            wrong[source] = f"{source} ({tuple(value.shape)}, expected {tuple(wanted[key].shape)})"
        else:
            state[key] = value
    state |= {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")}
    leftover = [name for name in params if name not in used]
    problems = {"missing": list(missing), "of a wrong shape": list(wrong.values()), "left over": leftover}
    if any(problems.values()):
        text = "; ".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in problems.items() if names)
        raise CheckpointError(f"the parameters do not fit {model.pretrained_cfg['architecture']}: {text}")
    return state


def _pairs(model: PooledClassifier, params: Arrays) -> Iterator[tuple[str, str, Tensor | None]]:
    """For every learnt or averaged tensor: MatConvNet's name, ours, and the value in our layout (None: not there)."""

    def get(name: str, convert: Any = lambda array: array.flatten()) -> Tensor | None:
        return torch.from_numpy(np.ascontiguousarray(convert(params[name]), np.float64)) if name in params else None

    for source, key, module in _modules(model):
        if isinstance(module, nn.Conv2d):
            yield f"{source}_f", f"{key}.weight", get(f"{source}_f", _filter)
            if module.bias is not None:
                yield f"{source}_b", f"{key}.bias", get(f"{source}_b")
        elif isinstance(module, nn.Linear):
            yield f"{source}_f", f"{key}.weight", get(f"{source}_f", lambda array: _filter(array)[:, :, 0, 0])
            yield f"{source}_b", f"{key}.bias", get(f"{source}_b")
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            yield f"{source}_w", f"{key}.weight", get(f"{source}_w")
            yield f"{source}_b", f"{key}.bias", get(f"{source}_b")
            yield f"{source}_m", f"{key}.running_mean", get(f"{source}_m", lambda array: _matrix(array)[:, 0])
            yield f"{source}_m", f"{key}.running_var", get(f"{source}_m", lambda array: _variance(_matrix(array)[:, 1]))
    if isinstance(model.pool, GatedMixture):
        yield "gating_w", "pool.gate.weight", get("gating_w", lambda array: _matrix(array).T)
        yield "gating_noise_w", "pool.gate.noise_weight", get("gating_noise_w", lambda array: _matrix(array).T)


def _modules(model: PooledClassifier) -> Iterator[tuple[str, str, nn.Module]]:
    """MatConvNet's name, ours, and the module, for every layer with parameters."""

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


def _filter(array: NDArray[Any]) -> NDArray[Any]:
    """MATLAB's (height, width, in, out), trailing axes of one dropped, to (out, in, height, width)."""
    return array.reshape(array.shape + (1,) * (4 - array.ndim)).transpose(3, 2, 0, 1)


def _matrix(array: NDArray[Any]) -> NDArray[Any]:
    """MATLAB's (rows, columns), trailing axes of one left out."""
    return array.reshape(array.shape[:2]) if array.size == np.prod(array.shape[:2]) else array


def _variance(sigma: NDArray[Any]) -> NDArray[Any]:
    """sigma = sqrt(variance + eps); 0 is a moment that was never updated."""
    sigma = sigma.astype(np.float64)
    return np.where(sigma == 0, 0.0, sigma**2 - BN_EPS)


def _params(path: str | Path, net: Any) -> Arrays:
    rows = net.get("params") if isinstance(net, dict) else None
    rows = [rows] if isinstance(rows, dict) else rows
    if not rows or not all(isinstance(row, dict) and {"name", "value"} <= set(row) for row in rows):
        raise CheckpointError(
            f"{path}: `net` holds no list of named parameters. Expected the struct that MatConvNet's DagNN saves "
            "(`net = net.saveobj(); save(file, 'net')`)"
        )
    return {_text(row["name"]): np.asarray(row["value"]) for row in rows}


_SETTINGS = (("top_k", "topk", int), ("num_iters", "iterNum", int), ("drop_rate", "rate", float))


def _settings(net: Any) -> dict[str, Any]:
    """What the layers say and the parameters do not: top_k, num_iters, drop_rate."""
    layers = net.get("layers") if isinstance(net, dict) else None
    found: dict[str, Any] = {}
    for layer in layers if isinstance(layers, list) else []:
        block = layer.get("block")
        if isinstance(block, dict):
            for ours, theirs, kind in _SETTINGS:
                if theirs in block and np.size(block[theirs]) == 1:
                    found[ours] = kind(np.asarray(block[theirs]).item())
    return found


def _describe_input(model: PooledClassifier, path: str | Path, net: Any) -> None:
    md5 = digest(path, "md5")
    cfg: dict[str, Any] = {"source": {"file": Path(path).name, "md5": md5, "published": MATCONVNET_MD5.get(md5)}}
    meta = net.get("meta")
    normalization = meta.get("normalization", {}) if isinstance(meta, dict) else {}
    mean = np.asarray(normalization.get("averageImage", []), np.float64)
    if mean.ndim > 2:  # an average image rather than one colour
        mean = mean.mean((0, 1))
    if mean.size == model.init_args["in_chans"]:
        cfg |= {"mean": tuple(float(v) / 255 for v in mean.flatten()), "std": (1 / 255,) * mean.size}
    size = np.asarray(normalization.get("imageSize", []), np.float64).flatten()
    if size.size >= 2:
        cfg["input_size"] = (model.init_args["in_chans"], int(size[0]), int(size[1]))
    model.pretrained_cfg.update(cfg, num_classes=model.num_classes)


def _text(name: Any) -> str:
    return name if isinstance(name, str) else "".join(map(chr, np.asarray(name).flatten().astype(int)))
