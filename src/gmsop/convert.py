"""The authors' weights: a MatConvNet checkpoint, as their training saves it, to a gmsop model."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gmsop.assembly import BACKBONES, head_options
from gmsop.errors import CheckpointError, GmsopError
from gmsop.files import digest
from gmsop.matconvnet import Arrays, as_filter, state_from
from gmsop.matfile import read_variable
from gmsop.models import create_model
from gmsop.nn import PooledClassifier
from gmsop.ops import triu_size
from gmsop.published import MATCONVNET_MD5


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
    try:
        params = _params(path, net)
        identity = identify(params, _settings(net))
        model = create_model(identity.name, identity.num_classes, identity.in_chans, **identity.overrides).to(dtype)
        model.load_state_dict(state_from(model, params))
        _describe_input(model, path, net)
    except GmsopError as error:
        text = str(error)
        raise CheckpointError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not what MatConvNet saves of a GM-SOP network ({error!r})") from error
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
        return as_filter(params[name]).shape[axis]

    body: dict[str, Any] = {
        "blocks": tuple(blocks[s] for s in range(len(blocks))),
        "widths": tuple(channels(f"conv{s + 2}_1a_f", 0) for s in range(len(blocks))),
        "project_first": "conv2_1_adapt_conv_f" in params,
        "stem_width": channels("conv1_f", 0),
    }
    backbone = _nearest_backbone(body)
    features = channels("prediction_f", 1)
    num_components = max((int(name.split("_")[1]) for name in _matching(params, r"CM_\d+_[ab]_f")), default=0)
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


def _params(path: str | Path, net: Any) -> Arrays:
    rows = net.get("params") if isinstance(net, dict) else None
    rows = [rows] if isinstance(rows, dict) else rows
    if (
        not isinstance(rows, list)
        or not rows
        or not all(isinstance(row, dict) and {"name", "value"} <= set(row) for row in rows)
    ):
        raise CheckpointError(
            f"{path}: `net` holds no list of named parameters. Expected the struct that MatConvNet's DagNN saves "
            "(`net = net.saveobj(); save(file, 'net')`)"
        )
    return {_text(row["name"]): np.asarray(row["value"]) for row in rows}


_SETTINGS = (("top_k", "topk", int), ("num_iters", "iterNum", int), ("drop_rate", "rate", float))


def _settings(net: Any) -> dict[str, Any]:
    """What the layers say and the parameters do not: top_k, num_iters, drop_rate."""
    layers = net.get("layers") if isinstance(net, dict) else None
    layers = [layers] if isinstance(layers, dict) else layers
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
