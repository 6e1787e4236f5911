"""Say which parameters learn, and each at what share of the learning rate and with what weight decay."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import timm.optim
from timm.models import group_parameters
from torch import nn

from gmsop.backbones.protocol import BackboneModule
from gmsop.errors import ConfigError, GmsopError, UnknownNameError
from gmsop.models import PooledClassifier
from gmsop.training.recipe import Recipe

_TIMM: Any = timm.optim  # timm.optim does not say what it exports
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Group:
    """Holds parameters with one rate and one weight decay."""

    name: str
    params: list[nn.Parameter]
    lr_scale: float
    """Share of the learning rate, without that of the stem's scale."""
    weight_decay: float
    is_stem: bool = False


def parameter_groups(model: PooledClassifier, recipe: Recipe, classifier_share: float) -> list[Group]:
    """Return the parameters that learn: the rest, the stem and the classifier; more where the recipe tells more apart.

    Layers are timm's (`layer_decay` ** layers after it); what has no weight decay is what timm spares it.

    Args:
        classifier_share: the recipe's `classifier_lr_scale`, as a number.

    Raises:
        ConfigError: the backbone does not say what its layers are.
    """
    stem = {id(p) for p in _stem(model)}
    classifier = {id(p) for p in model.get_classifier().parameters()}
    if recipe.layer_decay == 1 and recipe.head_lr_scale == 1 and recipe.decay_norms_and_biases:
        parts: dict[str, list[nn.Parameter]] = {"all other parameters": [], "stem": [], "classifier": []}
        for p in model.parameters():
            part = "stem" if id(p) in stem else "classifier" if id(p) in classifier else "all other parameters"
            if p.requires_grad:
                parts[part].append(p)
        parts["stem"] = [p for p in _stem(model) if p.requires_grad]
        shares = (1.0, 1.0, classifier_share)
        return [
            Group(name, params, share, recipe.weight_decay, name == "stem")
            for (name, params), share in zip(parts.items(), shares, strict=True)
        ]
    found: dict[tuple[Any, ...], Group] = {}
    scales = _scales_and_decays(model, recipe)
    layers = _layers(model) if recipe.layer_decay != 1 else {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        in_head = not name.startswith("backbone.")
        scale, decay = scales[id(p)]
        share = scale * (recipe.head_lr_scale if in_head else 1) * (classifier_share if id(p) in classifier else 1)
        part = "classifier" if id(p) in classifier else "head" if in_head else "backbone"
        layer = None if in_head else layers.get(name)
        is_stem = id(p) in stem and recipe.stem_scale != 1
        key = (part, layer, share, decay, is_stem)
        shown = f"{part}, layer {layer}" if layer is not None else "stem" if is_stem else part
        norms = "" if decay or not recipe.weight_decay else ": norms and biases"
        found.setdefault(key, Group(shown + norms, [], share, decay, is_stem)).params.append(p)
    return list(found.values())


def _stem(model: PooledClassifier) -> list[nn.Parameter]:
    trunk: Any = model.backbone
    return list(trunk.stem_parameters())


def _layers(model: PooledClassifier) -> dict[str, int]:
    return dict(group_parameters(model, model.group_matcher(coarse=False), reverse=True))


def _scales_and_decays(model: PooledClassifier, recipe: Recipe) -> dict[int, tuple[float, float]]:
    """Return each parameter's share by layer and its weight decay, as timm has them."""
    how: dict[str, Any] = {
        "weight_decay": recipe.weight_decay,
        "no_weight_decay_list": () if recipe.decay_norms_and_biases else model.no_weight_decay(),
        "weight_decay_exclude_1d": not recipe.decay_norms_and_biases,
    }
    if recipe.layer_decay == 1:
        groups = _TIMM.param_groups_weight_decay(model, **how)
    else:
        groups = _TIMM.param_groups_layer_decay(model, layer_decay=recipe.layer_decay, **how)
    return {id(p): (float(g.get("lr_scale", 1.0)), float(g["weight_decay"])) for g in groups for p in g["params"]}


# --- what is frozen ---------------------------------------------------------------------------------------------------


def frozen_modules(model: PooledClassifier, freeze: str | Sequence[str]) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that `freeze` names: "none", "backbone", "stages:N", or modules of the backbone.

    "stages:N" is the stem and the first N stages, as timm groups the network's layers coarsely.

    Raises:
        ConfigError: there are not so many stages, or the backbone does not say what its stages are.
        UnknownNameError: the backbone has no such module; the text lists the nearest.
    """
    words = [freeze] if isinstance(freeze, str) else list(freeze)
    every = [(name, p) for name, p in model.named_parameters() if name.startswith("backbone.")]
    if words == ["none"]:
        return []
    if words == ["backbone"]:
        return every
    if len(words) == 1 and words[0].startswith("stages:"):
        return _first_stages(model, words[0].removeprefix("stages:"))
    trunk = getattr(model.backbone, "model", model.backbone)
    prefix = "backbone.model." if trunk is not model.backbone else "backbone."
    known = dict(trunk.named_modules())
    for word in words:
        if word not in known or not word:
            near = _near(word, [name for name in known if name])
            raise UnknownNameError(
                f"freeze: the backbone has no module {word!r}; there are {', '.join(near)}, and the words none, "
                "backbone and stages:N"
            )
    return [(name, p) for name, p in every if any(name.startswith(f"{prefix}{word}.") for word in words)]


def _near(word: str, known: Sequence[str]) -> list[str]:
    found = difflib.get_close_matches(word, known, n=5, cutoff=0.4)
    return found or [name for name in known if "." not in name][:8]


def _first_stages(model: PooledClassifier, count: str) -> list[tuple[str, nn.Parameter]]:
    if not count.isdecimal() or not int(count):
        raise ConfigError(f"freeze: stages:{count} is no number of stages; the first two are stages:2")
    if not isinstance(model.backbone, BackboneModule):
        raise ConfigError("freeze: the backbone does not say what its stages are")
    try:
        groups = dict(group_parameters(model.backbone, model.backbone.group_matcher(coarse=True), reverse=True))
    except (GmsopError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"freeze: the backbone does not say what its stages are ({error})") from error
    stages = sorted(set(groups.values()))[1:]  # the first group is the stem
    if int(count) > len(stages):
        raise ConfigError(f"freeze: {count} stages, the backbone has {len(stages)}")
    last = stages[int(count) - 1]
    own = [(f"backbone.{name}", p) for name, p in model.backbone.named_parameters()]
    return [(name, p) for name, p in own if groups.get(name.removeprefix("backbone."), last + 1) <= last]


def freeze(model: PooledClassifier, recipe: Recipe) -> list[tuple[str, nn.Parameter]]:
    """Return what the recipe freezes; what it freezes for good learns no more.

    Raises:
        ConfigError, UnknownNameError: see `frozen_modules`; or nothing would be left to learn.
    """
    found = frozen_modules(model, recipe.freeze)
    if not recipe.unfreeze_epoch:
        for _, p in found:
            p.requires_grad_(False)
    return found


def set_learning(model: PooledClassifier, recipe: Recipe, frozen: Sequence[nn.Parameter], epoch: int) -> None:
    """Let learn in an epoch what the recipe lets learn, and keep the statistics of BatchNorm where it says so.

    A module of which all parameters are frozen is as in evaluation: its BatchNorm statistics stay, it drops nothing.
    """
    is_frozen = bool(frozen) and not (recipe.unfreeze_epoch and epoch >= recipe.unfreeze_epoch)
    still = {id(p) for p in frozen} if is_frozen else set()
    if recipe.unfreeze_epoch:
        for p in frozen:
            p.requires_grad_(not is_frozen)
    model.train()
    for module in _whole_modules(model, still):
        module.eval()
    if recipe.frozen_batchnorm:
        for module in model.backbone.modules():
            if isinstance(module, BATCH_NORMS):
                module.eval()


def _whole_modules(model: nn.Module, still: set[int]) -> Iterator[nn.Module]:
    """Yield the modules with parameters, all of which are still."""
    for module in model.modules():
        own = [id(p) for p in module.parameters()]
        if own and still.issuperset(own):
            yield module
