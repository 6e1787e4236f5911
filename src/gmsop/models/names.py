"""The named models, registered with timm: `timm.create_model("gm_sop_16_8_resnet18")` works once gmsop is imported.

A name is head, then backbone: every head on each of the paper's backbones, `gap_512` and `gap_8256` (average pooling
after a 1x1 convolution to as many channels) besides. The numbers of a mixture are its components, and how many of them
are chosen per image. The `tiny` ones are for a laptop and ten minutes.
"""

from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from functools import cache
from typing import Any, cast

import timm
from timm.models import PretrainedCfg, build_model_with_cfg, generate_default_cfgs, register_model

from gmsop.backbones import BACKBONES
from gmsop.errors import ConfigError, UnknownNameError
from gmsop.heads import HEADS
from gmsop.models.classifier import PooledClassifier
from gmsop.models.spec import ModelSpec, default_spec, known_options

default_cfgs: dict[str, Any] = {}
"""timm looks for them here, by the names of the functions that build the models."""


@cache
def named_specs() -> dict[str, ModelSpec]:
    """What each name stands for."""
    found: dict[str, ModelSpec] = {}
    for backbone in BACKBONES:
        for head in HEADS:
            spec = default_spec(backbone.name, head.name)
            found[spec.name] = spec
            for label, options in head.rows.items() if backbone.rows else ():
                name = f"{label}_{backbone.name}"
                found[name] = default_spec(backbone.name, head.name, name, **options)
    return found


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
    named_spec(name)
    for option in overrides:
        if option not in known_options():  # timm has keywords of its own, which could load files
            raise ConfigError(f"no model has an option {option!r}; there are {', '.join(sorted(known_options()))}")
    num_classes = 1000 if num_classes is None else num_classes
    return cast(PooledClassifier, timm.create_model(name, num_classes=num_classes, in_chans=in_chans, **overrides))


def named_spec(name: str) -> ModelSpec:
    """What a name stands for.

    Raises:
        UnknownNameError: no model of that name; the text lists the nearest.
    """
    if name not in named_specs():
        raise UnknownNameError.of("model", name, named_specs())
    return named_specs()[name]


def overrides_of(spec: ModelSpec) -> dict[str, Any]:
    """The options that differ from what the model's name stands for."""
    return spec.differences(named_spec(spec.name))


def list_models(pattern: str = "*") -> list[str]:
    """Names of gmsop's models that match a shell pattern, backbone by backbone."""
    return [name for name in named_specs() if fnmatch(name, pattern)]


def build_spec(spec: ModelSpec) -> PooledClassifier:
    """The model that a description is of, with random weights and timm's `pretrained_cfg`.

    Raises:
        UnknownNameError: no such backbone or head.
        ConfigError: a name that stands for another backbone or head; values that cannot work together.
    """
    named = named_specs().get(spec.name, spec)
    if (spec.backbone, spec.head) != (named.backbone, named.head):
        other = f"{spec.head} on {spec.backbone}"
        raise ConfigError(f"{spec.name} is a {named.head} model on {named.backbone}, not {other}")
    model = spec.build()
    cfg = PretrainedCfg(**_input_cfg(spec), architecture=spec.name, num_classes=spec.num_classes)
    model.pretrained_cfg = model.default_cfg = cfg.to_dict()
    _fit_input(model)
    return model


def _input_cfg(spec: ModelSpec) -> dict[str, Any]:
    cfg = dict(BACKBONES[spec.backbone].input)
    return cfg | {"url": "", "first_conv": f"backbone.{cfg['first_conv']}", "classifier": "fc"}


def _fit_input(model: PooledClassifier) -> None:
    """Make `pretrained_cfg` say what is true of this model's channels and resolution."""
    cfg, channels = model.pretrained_cfg, model.in_chans
    if channels != len(cfg["mean"]):  # as timm prepares images of one channel
        cfg.update({key: (sum(cfg[key]) / len(cfg[key]),) * channels for key in ("mean", "std")})
        cfg["input_size"] = (channels, *cfg["input_size"][1:])
    reduction: Any = model.backbone.reduction
    cfg["pool_size"] = tuple(-(-size // reduction) for size in cfg["input_size"][1:])


def _build(name: str, pretrained: bool, kwargs: dict[str, Any]) -> PooledClassifier:
    if pretrained and not (kwargs.get("pretrained_cfg_overlay") or kwargs.get("pretrained_cfg")):
        raise ConfigError(
            f"no weights are hosted for {name}. Convert the authors' file with `gmsop convert NET.mat "
            "OUT.safetensors`, or train with `gmsop train`"
        )
    model = build_model_with_cfg(_assemble, name, pretrained, name=name, **kwargs)
    _fit_input(model)
    return model


def _assemble(name: str, num_classes: int = 1000, in_chans: int = 3, **overrides: Any) -> PooledClassifier:
    return replace(named_spec(name), num_classes=num_classes, in_chans=in_chans).with_options(**overrides).build()


def _register(spec: ModelSpec) -> None:
    def entry(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
        return _build(spec.name, pretrained, kwargs)

    entry.__name__ = entry.__qualname__ = spec.name
    entry.__doc__ = f"{HEADS[spec.head].help}, on {spec.backbone}."
    default_cfgs.update(generate_default_cfgs({spec.name: _input_cfg(spec) | {"num_classes": 1000}}))
    builder: Callable[..., PooledClassifier] = entry
    register_model(builder)


for _spec in named_specs().values():
    _register(_spec)
