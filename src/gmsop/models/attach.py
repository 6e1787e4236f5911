"""This file puts any head on any backbone, in one line."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from gmsop.backbones import BACKBONES
from gmsop.backbones.given_module import GivenModule
from gmsop.backbones.protocol import BackboneModule
from gmsop.backbones.timm_models import TimmBackbone
from gmsop.backbones.torchvision_models import features_of
from gmsop.errors import ConfigError
from gmsop.heads import HEADS
from gmsop.models.classifier import PooledClassifier, without_parallel
from gmsop.models.names import describe_input
from gmsop.models.spec import default_spec, head_options
from gmsop.utils.options import Option, PositiveInt


def attach(
    backbone: str | nn.Module,
    head: str | nn.Module | Sequence[str | Mapping[str, Any]],
    num_classes: int = 1000,
    *,
    pretrained: bool = False,
    in_chans: int = 3,
    layers: Sequence[str | int] | None = None,
    **options: Any,
) -> PooledClassifier:
    """Put a pooling head on a backbone: `attach("resnet50.a1_in1k", "gm_sop", num_classes=10, pretrained=True)`.

    A head keeps the paper's widths on the paper's backbones. On others they follow the backbone's channels C, within
    the paper's range: `reduced_dim` 128 (SR-SOP: a 1x1 reduction only where C is above 128; fast MPN-COV has 256),
    `hidden_dim` and the gate's first layer min(512, 2 C), GM-GAP's `reduced_dim` min(512, 4 C). `top_k` is half of the
    components, at least 2 and at most 8.

    Args:
        backbone: a timm name (tags, `hf-hub:` and `local-dir:`, too), or a module: a timm model or a torchvision
            classification model, which lose their own head to it, or any module whose output is a map of features
            (B, C, H, W), or, with `layout`, (B, H, W, C) ("NHWC") or tokens (B, N, C) ("NLC").
        head: one of `gmsop.list_heads()`, or a module from (B, C, H, W) to (B, V) with `out_features`, V. With `layers`
            also one name for each layer, or {"head": name, ...} with its own options; among them "batch_norm", whether
            BatchNorm follows.
        num_classes: 0 leaves the classifier out.
        pretrained: load timm's weights of the backbone.
        in_chans: channels of the images.
        layers: of a timm backbone: pool several levels, each by a head of its own, and set the vectors beside each
            other, each scaled to the same norm. Names or indices of the model's `feature_info`, or "features", its last
            features: ["blocks.4", "features"]. Layers that none of them needs are left out.
        options: of the head (`num_components`, `reduced_dim`, `drop_rate`, ...); of a timm backbone: `output_stride`
            (16 keeps four times the positions of most networks, where timm offers it, at four times the last stage's
            cost; the default is the model's own, mostly 32), `class_token` ("drop", or "concat": beside the pooled
            vector) and `model_args` for `timm.create_model`; of another module: `layout`, `num_prefix_tokens`,
            `class_token`, `image_size`.

    Returns:
        A timm model in every respect; with random weights but for those of the backbone.

    Raises:
        UnknownNameError: timm has no such model, gmsop no such head; the text lists the nearest.
        ConfigError: an option that neither has, or values that cannot work; a backbone without a map or tokens to
            pool; weights that cannot be had.
    """
    Option("in_chans", PositiveInt, 3).check(in_chans)
    backbone = without_parallel(backbone)
    heads = _heads(head, layers)
    known = {name for each in heads for name in HEADS[each["head"]].options}
    of_head = {name: value for name, value in options.items() if name in known}
    of_backbone = {name: value for name, value in options.items() if name not in known}
    if isinstance(backbone, str):
        _require_options("timm", of_backbone, known)
        of_backbone |= {} if layers is None else {"layers": tuple(layers)}
        made = TimmBackbone(backbone, in_chans, pretrained=pretrained, **of_backbone)
        trunk: BackboneModule = made
        kind, described = "timm", of_backbone | _origin(made, of_backbone)
    elif pretrained:
        raise ConfigError("pretrained is for a backbone by its name; a module has the weights that it has")
    else:
        of_backbone |= {} if layers is None else {"layers": tuple(layers)}
        trunk, kind, described = as_backbone(backbone, in_chans, of_backbone)
    if layers is not None:
        assert isinstance(trunk, TimmBackbone)
        described |= {"layers": trunk.layers}
        drop_rate = of_head.pop("drop_rate", max(HEADS[each["head"]].drop_rate for each in heads))
        of_head = {"parts": _parts(heads, trunk.layer_features, of_head), "drop_rate": drop_rate}
        head = "multi_layer"
    if isinstance(head, nn.Module):
        model = PooledClassifier(trunk, head, num_classes)
        describe_input(model)
        return model
    assert isinstance(head, str)
    spec = default_spec(kind, head, channels=trunk.num_features, **described, **of_head)
    spec = replace(spec, num_classes=num_classes, in_chans=trunk.in_chans)
    model = spec.build(trunk)
    if (like := next(trunk.parameters(), None)) is not None and like.is_floating_point():
        for part in model.children():
            if part is not trunk:  # a module that is there may be in half precision, or in double
                part.to(like.dtype)
    describe_input(model)
    return model


def _heads(head: Any, layers: Sequence[str | int] | None) -> list[dict[str, Any]]:
    """Return the head of each layer, by name and with its own options; [] for a module."""
    if isinstance(layers, str) or (layers is not None and len(layers) == 0):
        raise ConfigError(f"layers must be a list of at least one name or index, got {layers!r}")
    if isinstance(head, nn.Module):
        if layers is not None:
            raise ConfigError("layers: name the head, a module cannot be made once for each layer")
        return []
    if isinstance(head, str):
        listed: list[Any] = [head] * (1 if layers is None else len(layers))
    elif layers is None:
        raise ConfigError("a list of heads is for layers, one head for each")
    else:
        listed = list(head)
        if len(listed) != len(layers):
            raise ConfigError(f"{len(listed)} heads for {len(layers)} layers")
    heads = [{"head": each} if isinstance(each, str) else dict(each) for each in listed]
    for each in heads:
        if HEADS[str(each.get("head"))].of_layers:
            raise ConfigError(f"{each['head']} is made by attach: give the head of each layer")
    return heads


def _parts(
    heads: list[dict[str, Any]], channels: Sequence[int], shared: Mapping[str, Any]
) -> tuple[dict[str, Any], ...]:
    """Return each layer's head with all its options; those of the call are for every head that has them."""
    parts = []
    for each, width in zip(heads, channels, strict=True):
        name, own = each["head"], {k: v for k, v in each.items() if k not in ("head", "batch_norm")}
        norm = {"batch_norm": bool(each["batch_norm"])} if "batch_norm" in each else {}
        of_all = {k: v for k, v in shared.items() if k in HEADS[name].options}
        parts.append({"head": name, **norm, **head_options(name, width, **{**of_all, **own})})
    return tuple(parts)


def _require_options(kind: str, given: dict[str, Any], known: set[str]) -> None:
    own = {**BACKBONES[kind].options}
    for name in ("model", "note"):  # what only gmsop gives
        own.pop(name, None)
    for name, value in given.items():
        if name not in own:
            raise ConfigError(f"there is no option {name!r}; there are {', '.join(sorted(known | set(own)))}")
        own[name].check(value)


def _origin(trunk: TimmBackbone, given: dict[str, Any]) -> dict[str, Any]:
    """Return the name and arguments by which timm makes the model again, wherever it came from."""
    cfg: Any = trunk.model.pretrained_cfg
    name = ".".join(word for word in (cfg["architecture"], cfg.get("tag")) if word)
    arguments = dict(getattr(trunk.model, "_model_args", None) or given.get("model_args") or {})
    for own in ("num_classes", "global_pool", "in_chans", "output_stride"):
        arguments.pop(own, None)
    return {"model": name, "model_args": arguments}


def as_backbone(
    module: nn.Module, in_chans: int, options: dict[str, Any]
) -> tuple[BackboneModule, str, dict[str, Any]]:
    """Make a backbone of a module that is there.

    Returns:
        The backbone; its kind, "timm" where timm makes it again, else "module"; and the options that describe it.

    Raises:
        ConfigError: an option that it does not take; nothing to pool.
    """
    is_timm = hasattr(module, "forward_features") and bool(getattr(module, "pretrained_cfg", None))
    if "layers" in options and not is_timm:
        raise ConfigError(f"layers: {type(module).__name__} is no timm model, whose levels could be asked for by name")
    if isinstance(module, BackboneModule):
        if options:
            raise ConfigError(f"the backbone is there: it takes no option {', '.join(options)}")
        return module, "module", {"note": note_of(module)}
    if is_timm:
        if strange := sorted(set(options) - {"class_token", "layers"}):
            raise ConfigError(f"a timm model that is there takes class_token and layers, not {', '.join(strange)}")
        trunk = TimmBackbone.around(module, **options)
        described = {**options, **_origin(trunk, {})}
        return (trunk, "timm", described) if _is_built_again(trunk, described) else (
            trunk, "module", {**options, "note": note_of(trunk)}
        )  # fmt: skip
    _require_options("module", options, set())
    own: dict[str, Any] = {}
    if (found := features_of(module, in_chans)) is not None:
        module, own = found
    taken = {**own, **options}
    trunk_of = GivenModule(module, in_chans=in_chans, **taken)
    return trunk_of, "module", {**taken, "note": note_of(trunk_of)}


def _is_built_again(trunk: TimmBackbone, described: dict[str, Any]) -> bool:
    """Return whether timm makes the same network from its name: same modules, same shapes."""
    try:
        with torch.device("meta"):
            again = TimmBackbone(in_chans=trunk.in_chans, **described)
    except ConfigError:
        return False
    shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (trunk, again)]
    return shapes[0] == shapes[1] and repr(trunk.model) == repr(again.model)


def note_of(trunk: BackboneModule) -> str:
    """Describe a backbone that cannot be built again, so that another is not taken for it."""
    inner = getattr(trunk, "model", trunk)
    parameters = sum(p.numel() for p in inner.parameters())
    return f"{type(inner).__name__} with {parameters:,} parameters, {trunk.num_features} channels, {trunk.output_fmt}"
