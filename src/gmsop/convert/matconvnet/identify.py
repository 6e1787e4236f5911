"""`identify` finds out which official model some MatConvNet parameters are of, and with what widths."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from gmsop.backbones import BACKBONES
from gmsop.convert.matconvnet.layout import as_filter
from gmsop.errors import CheckpointError
from gmsop.models import ModelSpec
from gmsop.models.names import named_spec
from gmsop.ops import triu_size


def identify(params: Mapping[str, NDArray[Any]], settings: Mapping[str, Any] | None = None) -> ModelSpec:
    """Return the description of the model with these parameters (MatConvNet's names, MATLAB's axis order).

    Args:
        settings: `top_k`, `num_iters`, `drop_rate`, which leave no trace in the parameters; what is absent takes the
            official value of the model.

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
    name = {"gm_gap": "gm_gap_16_8", "gm_sop": "gm_sop_16_8"}.get(head, head)
    official = named_spec(f"{name}_{backbone}")
    options |= {k: v for k, v in (settings or {}).items() if v is not None and k in official.head_options}
    if "top_k" in official.head_options:
        options.setdefault("top_k", min(official.head_options["top_k"], num_components))
    classes, channels_in = channels("prediction_f", 0), channels("conv1_f", 1)
    return replace(official, num_classes=classes, in_chans=channels_in).with_options(**body, **options)


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
    return "resnet50" if body["blocks"] == BACKBONES["resnet50"].defaults["blocks"] else "resnet18"


def _matching(params: Mapping[str, Any], pattern: str) -> list[str]:
    return [name for name in params if re.fullmatch(pattern, name)]
