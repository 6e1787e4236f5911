"""This file registers the named models with timm, so that `timm.create_model("gm_sop_16_8_resnet18")` works.

A name is the head, then the backbone: every head exists on each of the paper's backbones, and so do `gap_512` and
`gap_8256` (average pooling after a 1x1 convolution to as many channels). The two numbers of a mixture are its
components, and how many of them are chosen per image. The `tiny` models train on a laptop in ten minutes.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from functools import cache
from typing import Any, cast

import timm
import torch
from timm.models import PretrainedCfg, build_model_with_cfg, generate_default_cfgs, register_model

from gmsop.backbones import BACKBONES
from gmsop.backbones.protocol import BackboneModule
from gmsop.errors import ConfigError, UnknownNameError
from gmsop.heads import HEADS
from gmsop.models.classifier import PooledClassifier
from gmsop.models.spec import ModelSpec, default_spec, known_options

ARCHITECTURE = "gmsop"
"""What timm calls every model of gmsop that has no name of its own there: `timm.create_model("gmsop", spec=...)`."""

default_cfgs: dict[str, Any] = {}
"""timm looks here for the models' settings, by the names of the functions that build them."""


@cache
def named_specs() -> dict[str, ModelSpec]:
    """Return the description that each name stands for."""
    found: dict[str, ModelSpec] = {}
    for backbone in (entry for entry in BACKBONES if entry.named):
        for head in (entry for entry in HEADS if not entry.of_layers):
            spec = default_spec(backbone.name, head.name)
            found[spec.name] = spec
            for label, options in head.rows.items() if backbone.paper else ():
                name = f"{label}_{backbone.name}"
                found[name] = default_spec(backbone.name, head.name, name, **options)
    return found


def create_model(name: str, num_classes: int | None = None, in_chans: int = 3, **overrides: Any) -> PooledClassifier:
    """Build a model by its name, with random weights.

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
        if option not in known_options():  # timm takes keywords of its own, which could load files
            raise ConfigError(f"no model has an option {option!r}; there are {', '.join(sorted(known_options()))}")
    num_classes = 1000 if num_classes is None else num_classes
    return cast(PooledClassifier, timm.create_model(name, num_classes=num_classes, in_chans=in_chans, **overrides))


def named_spec(name: str) -> ModelSpec:
    """Return the description that a name stands for.

    Raises:
        UnknownNameError: no model of that name; the text lists the nearest.
    """
    if name not in named_specs():
        raise UnknownNameError.of("model", name, named_specs())
    return named_specs()[name]


def overrides_of(spec: ModelSpec) -> dict[str, Any]:
    """Return the options that differ from what the model's name stands for."""
    return spec.differences(named_spec(spec.name))


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of gmsop's models that match a shell pattern, backbone by backbone."""
    return [name for name in named_specs() if fnmatch(name, pattern)]


def build_spec(spec: ModelSpec, trunk: BackboneModule | None = None) -> PooledClassifier:
    """Build the model that a description is of, with random weights and timm's `pretrained_cfg`.

    Args:
        trunk: the backbone, where it is there already.

    Raises:
        UnknownNameError: no such backbone or head.
        ConfigError: a name that stands for another backbone or head; values that cannot work together.
    """
    named = named_specs().get(spec.name, spec)
    if (spec.backbone, spec.head) != (named.backbone, named.head):
        other = f"{spec.head} on {spec.backbone}"
        raise ConfigError(f"{spec.name} is a {named.head} model on {named.backbone}, not {other}")
    model = spec.build(trunk)
    describe_input(model)
    return model


def describe_input(model: PooledClassifier) -> None:
    """Give a model `pretrained_cfg`, as its backbone says, and what timm writes down to build it again."""
    trunk, spec = model.backbone, model.spec
    inner = getattr(trunk, "model", None)
    own = dict(getattr(inner, "pretrained_cfg", None) or {})
    if own:  # a timm model's; what is said of its weights and its classifier is not true of this model
        kept = (
            "input_size",
            "fixed_input_size",
            "min_input_size",
            "interpolation",
            "crop_pct",
            "crop_mode",
            "mean",
            "std",
        )
        cfg = {key: own[key] for key in kept if key in own} | {"first_conv": _prefixed(own.get("first_conv"), "model.")}
        cfg |= {key: tuple(cfg[key]) for key in ("mean", "std")}  # a file of JSON gives lists
        cfg["input_size"] = (model.in_chans, *trunk.input_size)  # type: ignore[misc]
    elif spec is not None and BACKBONES[spec.backbone].input:
        cfg = dict(BACKBONES[spec.backbone].input)
    else:
        side = int(getattr(trunk, "image_size", 224))
        cfg = {"input_size": (model.in_chans, side, side)}
    cfg |= {"url": "", "first_conv": _prefixed(cfg.get("first_conv"), "backbone."), "classifier": "fc"}
    name = spec.name if spec is not None and is_named(spec) else ARCHITECTURE
    filled = PretrainedCfg(**cfg, architecture=name, num_classes=model.num_classes)
    model.pretrained_cfg = model.default_cfg = filled.to_dict()
    _fit_input(model)


def _prefixed(names: Any, prefix: str) -> Any:
    if names is None:
        return None
    return f"{prefix}{names}" if isinstance(names, str) else tuple(f"{prefix}{name}" for name in names)


def _fit_input(model: PooledClassifier) -> None:
    """Make `pretrained_cfg` say what is true of this model's channels, classes and resolution."""
    cfg, channels, trunk = model.pretrained_cfg, model.in_chans, model.backbone
    if channels != len(cfg["mean"]):  # as timm prepares images of one channel
        cfg.update({key: (sum(cfg[key]) / len(cfg[key]),) * channels for key in ("mean", "std")})
        cfg["input_size"] = (channels, *cfg["input_size"][1:])
    if len(cfg.get("label_names") or ()) not in (0, model.num_classes):
        cfg.pop("label_names")
    cfg["num_classes"], cfg["pool_size"] = model.num_classes, None
    if isinstance(trunk, BackboneModule) and trunk.output_fmt != "NLC":
        cfg["pool_size"] = trunk.map_size(*cfg["input_size"][1:])
    if model.spec is not None:
        tell_timm(model)


def tell_timm(model: PooledClassifier) -> None:
    """Note on the model, where timm looks for it, by what arguments it is built again."""
    spec: Any = model.spec
    arguments = overrides_of(spec) if is_named(spec) else {"spec": spec.to_dict()}
    if spec.in_chans != 3:
        arguments["in_chans"] = spec.in_chans
    own: Any = model
    own._model_args = arguments


def is_named(spec: ModelSpec) -> bool:
    """Return whether timm knows a model of the description's name."""
    return spec.name in named_specs()


def _build(name: str, pretrained: bool, kwargs: dict[str, Any]) -> PooledClassifier:
    if pretrained and not (kwargs.get("pretrained_cfg_overlay") or kwargs.get("pretrained_cfg")):
        raise ConfigError(
            f"no weights are hosted for {name}. Convert the authors' file with `gmsop convert NET.mat "
            "OUT.safetensors`, or train with `gmsop train`"
        )
    if kwargs.pop("drop_path_rate", None):
        raise ConfigError(f"{name} has no stochastic depth: drop_path_rate must be 0")
    image_size, pooling = kwargs.pop("img_size", None), kwargs.pop("global_pool", None)
    if pooling:
        raise ConfigError(f"{name} is made of its pooling head, which cannot become {pooling!r}; '' leaves it out")
    if kwargs.get("features_only"):
        return _levels(name, pretrained, kwargs)
    model = build_model_with_cfg(_assemble, name, pretrained, name=name, **kwargs)
    if name == ARCHITECTURE and not kwargs.get("pretrained_cfg"):
        describe_input(model)  # of the name alone timm knows no input
    if image_size is not None:
        side = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        model.pretrained_cfg["input_size"] = (model.in_chans, *side)
    if pooling is not None:
        model.reset_classifier(0, "")
    _fit_input(model)
    return model


def _levels(name: str, pretrained: bool, kwargs: dict[str, Any]) -> Any:
    """Build what gives the features of several levels, as `features_only` asks for."""
    with torch.device("meta"):  # the whole model, since timm cuts away what the levels do not need
        whole = _assemble(name, spec=kwargs.get("spec"), in_chans=kwargs.get("in_chans", 3))
        describe_input(whole)
    how = {"feature_cls": "getter", "out_indices": tuple(range(len(whole.feature_info)))}
    how |= kwargs.pop("feature_cfg", {})
    model = build_model_with_cfg(_assemble, name, pretrained, name=name, feature_cfg=how, **kwargs)
    if not kwargs.get("pretrained_cfg"):
        model.pretrained_cfg = model.default_cfg = whole.pretrained_cfg
    return model


def _assemble(
    name: str,
    num_classes: int = 1000,
    in_chans: int = 3,
    spec: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> PooledClassifier:
    if spec is not None:
        overrides.pop("img_size", None)  # timm repeats it for networks of a fixed size; the description has it
    found = named_spec(name) if spec is None else ModelSpec.from_dict(spec)
    return replace(found, num_classes=num_classes, in_chans=in_chans).with_options(**overrides).build()


def _register(spec: ModelSpec) -> None:
    def entry(pretrained: bool = False, **kwargs: Any) -> PooledClassifier:
        return _build(spec.name, pretrained, kwargs)

    entry.__name__ = entry.__qualname__ = spec.name
    entry.__doc__ = f"{HEADS[spec.head].help}, on {spec.backbone}."
    cfg = dict(BACKBONES[spec.backbone].input)
    cfg |= {"url": "", "first_conv": f"backbone.{cfg['first_conv']}", "classifier": "fc", "num_classes": 1000}
    default_cfgs.update(generate_default_cfgs({spec.name: cfg}))
    builder: Callable[..., PooledClassifier] = entry
    register_model(builder)


default_cfgs.update(generate_default_cfgs({ARCHITECTURE: {"url": "", "classifier": "fc", "num_classes": 1000}}))

for _spec in named_specs().values():
    _register(_spec)


@register_model
def gmsop(pretrained: bool = False, spec: Mapping[str, Any] | None = None, **kwargs: Any) -> PooledClassifier:
    """Build any model of gmsop's from its description: what timm reads in folders of models that have no name there."""
    return _build(ARCHITECTURE, pretrained, {**kwargs, "spec": spec or named_spec("gap_tiny").to_dict()})
