"""Names to modules: the table of backbones and heads, and the function that puts one of each together."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from gmsop.errors import ConfigError
from gmsop.nn import (
    GatedMixture,
    GlobalAvgPool,
    ISqrtCovPool,
    ParametricGAP,
    ParametricSOP,
    PooledClassifier,
    SmallImageResNet,
)

BACKBONES: dict[str, dict[str, Any]] = {
    "resnet18": {"blocks": (2, 2, 2, 2), "widths": (16, 32, 64, 128)},
    "resnet50": {"blocks": (6, 6, 6, 6), "widths": (16, 32, 64, 128)},
    "wrn36_2": {"blocks": (4, 4, 4, 4), "widths": (32, 64, 128, 256), "project_first": True},
    "tiny": {"blocks": (1, 1, 1), "widths": (16, 32, 64), "stem_stride": 2},
}

# What each kind of head can be told, with the ResNets' values.
HEADS: dict[str, dict[str, Any]] = {
    "gap": {"reduced_dim": None, "drop_rate": 0.0},
    "sr_sop": {"reduced_dim": None, "num_iters": 3, "drop_rate": 0.0},
    "parametric_sop": {"hidden_dim": 256, "reduced_dim": 128, "num_iters": 3, "drop_rate": 0.2},
    "gm_gap": {"num_components": 16, "top_k": 8, "reduced_dim": 512, "gate_dims": (256, 128), "drop_rate": 0.2},
    "gm_sop": {
        "num_components": 16,
        "top_k": 8,
        "hidden_dim": 256,
        "reduced_dim": 128,
        "gate_dims": (256, 128),
        "num_iters": 3,
        "drop_rate": 0.2,
    },
}

# Where another backbone departs from them.
DEPARTURES: dict[tuple[str, str], dict[str, Any]] = {
    ("sr_sop", "wrn36_2"): {"reduced_dim": 128},
    ("parametric_sop", "wrn36_2"): {"hidden_dim": 512, "drop_rate": 0.4},
    ("gm_gap", "wrn36_2"): {"gate_dims": (512,)},
    ("gm_sop", "wrn36_2"): {"hidden_dim": 512, "gate_dims": (512, 128), "drop_rate": 0.4},
    ("sr_sop", "tiny"): {"reduced_dim": 32},
    ("parametric_sop", "tiny"): {"hidden_dim": 64, "reduced_dim": 32, "drop_rate": 0.0},
    ("gm_gap", "tiny"): {
        "num_components": 4,
        "top_k": 2,
        "reduced_dim": 128,
        "gate_dims": (64, 32),
        "drop_rate": 0.0,
    },
    ("gm_sop", "tiny"): {
        "num_components": 4,
        "top_k": 2,
        "hidden_dim": 64,
        "reduced_dim": 32,
        "gate_dims": (64, 32),
        "drop_rate": 0.0,
    },
}

SECOND_ORDER = ("sr_sop", "parametric_sop", "gm_sop")
BACKBONE_OPTIONS = ("blocks", "widths", "stem_width", "stem_stride", "project_first")


OPTIONS = frozenset({name for options in HEADS.values() for name in options} | set(BACKBONE_OPTIONS))
"""Every override that some model has."""


def head_options(backbone: str, head: str) -> dict[str, Any]:
    """What a head of kind `head` can be told, with its values on `backbone`."""
    return {**HEADS[head], **DEPARTURES.get((head, backbone), {})}


def assemble(
    backbone: str,
    head: str,
    num_classes: int = 1000,
    in_chans: int = 3,
    defaults: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> PooledClassifier:
    """A model of `BACKBONES[backbone]` with a head of kind `head`.

    Args:
        defaults: what the model's name implies, over the tables above.
        overrides: what the caller changes; kept as `model.init_args`, from which the model can be built again.

    Raises:
        ConfigError: an override this model does not have, or a value that cannot work.
    """
    options = {**head_options(backbone, head), **(defaults or {})}
    known = [*options, *BACKBONE_OPTIONS]
    for name in overrides:
        if name not in known:
            raise ConfigError(f"a {head} model on {backbone} has no option {name!r}; it has {', '.join(known)}")
    body = {**BACKBONES[backbone], **{k: v for k, v in overrides.items() if k in BACKBONE_OPTIONS}}
    options |= {k: v for k, v in overrides.items() if k not in BACKBONE_OPTIONS}
    _check({**options, **body, "in_chans": in_chans})
    if len(body["blocks"]) != len(body["widths"]):
        raise ConfigError(f"blocks {body['blocks']} and widths {body['widths']} must be of equal length")
    drop_rate = options.pop("drop_rate")
    trunk = SmallImageResNet(**body, in_chans=in_chans, second_order=head in SECOND_ORDER)
    pool = _pool(head, trunk.num_features, **options)
    norm = head in ("parametric_sop", "gm_gap", "gm_sop")
    model = PooledClassifier(trunk, pool, num_classes, norm=norm, drop_rate=drop_rate)
    model.init_args = {"in_chans": in_chans, **overrides}
    return model


def _pool(head: str, channels: int, reduced_dim: int | None, **options: Any) -> nn.Module:
    if head == "gap":
        return GlobalAvgPool(channels) if reduced_dim is None else ParametricGAP(channels, reduced_dim)
    if head == "sr_sop":
        return ISqrtCovPool(channels, reduced_dim, **options)
    if reduced_dim is None:
        raise ConfigError(f"a {head} head needs reduced_dim")
    build: dict[str, Callable[..., nn.Module]] = {
        "parametric_sop": ParametricSOP,
        "gm_gap": GatedMixture.first_order,
        "gm_sop": GatedMixture.second_order,
    }
    return build[head](channels, reduced_dim=reduced_dim, **options)


def _check(options: Mapping[str, Any]) -> None:
    """Types and signs; what depends on several values is checked where they meet."""
    for name, value in options.items():
        if name == "drop_rate":
            good, expected = _is_number(value) and 0 <= value < 1, "at least 0 and below 1"
        elif name == "project_first":
            good, expected = isinstance(value, bool), "true or false"
        elif name in ("blocks", "widths", "gate_dims"):
            good = isinstance(value, list | tuple) and len(value) > 0 and all(_is_count(v) for v in value)
            expected = "a list of at least one positive integer"
        else:
            good = _is_count(value) or (value is None and name == "reduced_dim")
            expected = "a positive integer"
        if not good:
            raise ConfigError(f"{name} must be {expected}, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
