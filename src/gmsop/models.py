"""The named models, registered with timm: `timm.create_model("gm_sop_16_8_resnet18")` works once gmsop is imported.

A name is head, then backbone: `gap` (average pooling), `gap_512` and `gap_8256` (after a 1x1 convolution to as many
channels), `sr_sop` (square-root normalised second-order pooling), `parametric_sop` (one parametric component),
`gm_gap_16_8` and `gm_sop_16_8` (16 components, 8 chosen per image). The `tiny` ones are for a laptop and ten minutes.
"""

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any, cast

import timm
from timm.data.constants import IMAGENET_DEFAULT_MEAN
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from gmsop.assembly import OPTIONS, assemble
from gmsop.errors import ConfigError, UnknownNameError
from gmsop.nn import PooledClassifier

# The paper's input: pixels 0..255 minus the RGB mean, not divided by a standard deviation. In timm's units (pixels
# divided by 255 first) that is a standard deviation of 1/255. Images are squashed to a square by box filtering.
_CFG = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 64, 64),
    "pool_size": (8, 8),
    "crop_pct": 1.0,
    "crop_mode": "squash",
    "interpolation": "box",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": (1 / 255, 1 / 255, 1 / 255),
    "first_conv": "backbone.stem.conv",
    "classifier": "fc",
}

Entry = Callable[..., PooledClassifier]
default_cfgs: dict[str, Any] = {}
_names: list[str] = []


def create_model(name: str, num_classes: int | None = None, in_chans: int = 3, **overrides: Any) -> PooledClassifier:
    """A model by its name, with random weights.

    Args:
        name: one of `list_models()`.
        num_classes: classes of the linear classifier (1000 if None); 0 leaves it out.
        in_chans: channels of the images.
        overrides: `num_components`, `top_k`, `hidden_dim`, `reduced_dim`, `gate_dims`, `num_iters`, `drop_rate` where
            the head has them, and `blocks`, `widths`, `stem_width`, `stem_stride`, `project_first` of the backbone.

    Raises:
        UnknownNameError: no model of that name; the text lists the nearest.
        ConfigError: an override the model does not have, or a value that cannot work (top_k above num_components).
    """
    if name not in _names:
        raise UnknownNameError.of("model", name, _names)
    for option in overrides:
        if option not in OPTIONS:  # timm has keywords of its own, which could load files
            raise ConfigError(f"no model has an option {option!r}; there are {', '.join(sorted(OPTIONS))}")
    num_classes = 1000 if num_classes is None else num_classes
    return cast(PooledClassifier, timm.create_model(name, num_classes=num_classes, in_chans=in_chans, **overrides))


def list_models(pattern: str = "*") -> list[str]:
    """Names of gmsop's models that match a shell pattern, in the order of this file."""
    return [name for name in _names if fnmatch(name, pattern)]


def _register(entry: Entry) -> Entry:
    default_cfgs.update(generate_default_cfgs({entry.__name__: _CFG}))
    _names.append(entry.__name__)
    return register_model(entry)


def _build(
    name: str, backbone: str, head: str, pretrained: bool, kwargs: dict[str, Any], **defaults: Any
) -> PooledClassifier:
    if pretrained and not (kwargs.get("pretrained_cfg_overlay") or kwargs.get("pretrained_cfg")):
        raise ConfigError(
            f"no weights are hosted for {name}. Convert the authors' file with `gmsop convert NET.mat "
            "OUT.safetensors`, or train with `gmsop train`"
        )
    model = build_model_with_cfg(assemble, name, pretrained, backbone=backbone, head=head, defaults=defaults, **kwargs)
    channels = model.init_args.get("in_chans", 3)
    if channels != len(model.pretrained_cfg["mean"]):  # as timm prepares images of one channel
        cfg = model.pretrained_cfg
        cfg.update({key: (sum(cfg[key]) / len(cfg[key]),) * channels for key in ("mean", "std")})
        cfg["input_size"] = (channels, *cfg["input_size"][1:])
    return model


# ResNet-18 for small images: four stages of two basic blocks, 16 to 128 channels.


@_register
def gap_resnet18(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gap_resnet18", "resnet18", "gap", pretrained, kwargs)


@_register
def gap_512_resnet18(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gap_512_resnet18", "resnet18", "gap", pretrained, kwargs, reduced_dim=512)


@_register
def gap_8256_resnet18(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gap_8256_resnet18", "resnet18", "gap", pretrained, kwargs, reduced_dim=8256)


@_register
def sr_sop_resnet18(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("sr_sop_resnet18", "resnet18", "sr_sop", pretrained, kwargs)


@_register
def parametric_sop_resnet18(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("parametric_sop_resnet18", "resnet18", "parametric_sop", pretrained, kwargs)


@_register
def gm_gap_16_8_resnet18(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gm_gap_16_8_resnet18", "resnet18", "gm_gap", pretrained, kwargs)


@_register
def gm_sop_16_8_resnet18(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gm_sop_16_8_resnet18", "resnet18", "gm_sop", pretrained, kwargs)


# ResNet-50 for small images: four stages of six basic blocks (not bottlenecks).


@_register
def gap_resnet50(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gap_resnet50", "resnet50", "gap", pretrained, kwargs)


@_register
def gap_512_resnet50(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gap_512_resnet50", "resnet50", "gap", pretrained, kwargs, reduced_dim=512)


@_register
def gap_8256_resnet50(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gap_8256_resnet50", "resnet50", "gap", pretrained, kwargs, reduced_dim=8256)


@_register
def sr_sop_resnet50(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("sr_sop_resnet50", "resnet50", "sr_sop", pretrained, kwargs)


@_register
def parametric_sop_resnet50(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("parametric_sop_resnet50", "resnet50", "parametric_sop", pretrained, kwargs)


@_register
def gm_gap_16_8_resnet50(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gm_gap_16_8_resnet50", "resnet50", "gm_gap", pretrained, kwargs)


@_register
def gm_sop_16_8_resnet50(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gm_sop_16_8_resnet50", "resnet50", "gm_sop", pretrained, kwargs)


# WRN-36-2: four stages of four basic blocks, 32 to 256 channels.


@_register
def gap_wrn36_2(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gap_wrn36_2", "wrn36_2", "gap", pretrained, kwargs)


@_register
def gap_512_wrn36_2(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gap_512_wrn36_2", "wrn36_2", "gap", pretrained, kwargs, reduced_dim=512)


@_register
def gap_8256_wrn36_2(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gap_8256_wrn36_2", "wrn36_2", "gap", pretrained, kwargs, reduced_dim=8256)


@_register
def sr_sop_wrn36_2(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("sr_sop_wrn36_2", "wrn36_2", "sr_sop", pretrained, kwargs)


@_register
def parametric_sop_wrn36_2(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("parametric_sop_wrn36_2", "wrn36_2", "parametric_sop", pretrained, kwargs)


@_register
def gm_gap_16_8_wrn36_2(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gm_gap_16_8_wrn36_2", "wrn36_2", "gm_gap", pretrained, kwargs)


@_register
def gm_sop_16_8_wrn36_2(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gm_sop_16_8_wrn36_2", "wrn36_2", "gm_sop", pretrained, kwargs)


# A three-block network for the bundled sample images.


@_register
def gap_tiny(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gap_tiny", "tiny", "gap", pretrained, kwargs)


@_register
def sr_sop_tiny(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("sr_sop_tiny", "tiny", "sr_sop", pretrained, kwargs)


@_register
def parametric_sop_tiny(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("parametric_sop_tiny", "tiny", "parametric_sop", pretrained, kwargs)


@_register
def gm_gap_4_2_tiny(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gm_gap_4_2_tiny", "tiny", "gm_gap", pretrained, kwargs)


@_register
def gm_sop_4_2_tiny(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
    return _build("gm_sop_4_2_tiny", "tiny", "gm_sop", pretrained, kwargs)
