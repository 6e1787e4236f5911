"""`fresh_model` builds a model as a recipe and its images ask for it."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

from gmsop.backbones.protocol import BackboneModule
from gmsop.data import PackedDataset
from gmsop.data.images import FILTERS
from gmsop.data.preprocess import Preprocess
from gmsop.errors import ConfigError, DataError, GmsopError
from gmsop.models.attach import attach
from gmsop.models.classifier import PooledClassifier
from gmsop.models.names import create_model
from gmsop.models.spec import known_options
from gmsop.nn import ISqrtCovPool, ParametricSOP
from gmsop.training.parameter_groups import BATCH_NORMS
from gmsop.training.recipe import Recipe
from gmsop.training.starting import Start, start_from_weights
from gmsop.utils.text import first_line


def fresh_model(recipe: Recipe, dataset: PackedDataset) -> PooledClassifier:
    """Build the recipe's model for a packed set: see `build_model`."""
    return build_model(recipe, dataset.class_names, dataset.meta)[0]


def build_model(
    recipe: Recipe, class_names: Sequence[str], meta: Mapping[str, Any] | None = None, with_weights: bool = True
) -> tuple[PooledClassifier, Start | None]:
    """Build the recipe's model with these classes, and say what it starts from.

    Images are prepared by the statistics of the set, or as the network or the starting weights expect.

    Args:
        meta: description of the packed set, for its statistics.
        with_weights: False: leave the starting weights out, since a checkpoint's will replace them.

    Raises:
        UnknownNameError: no such model, backbone or head.
        ConfigError: an option that models do not have, or an image size that the backbone cannot take; weights that
            cannot be had.
        CheckpointError: starting weights that are damaged or of another backbone.
        DataError: a colour channel never varies, but is to be divided by its standard deviation.
    """
    model = _assembled(recipe, len(class_names))
    start = start_from_weights(model, recipe, class_names) if with_weights else None
    if not recipe.has_weights:
        with torch.no_grad():
            for weight in model.backbone.stem_parameters():  # type: ignore[operator]
                weight.div_(recipe.stem_scale)
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            module.momentum = recipe.bn_momentum
    if recipe.grad_checkpointing:
        model.set_grad_checkpointing()
    cfg = model.pretrained_cfg
    if not recipe.has_weights and recipe.normalize != "model":
        assert meta is not None
        cfg.update(_statistics(recipe, meta))
    if recipe.images == "photographs":
        _describe_view(cfg, recipe)
        _require_size(model, recipe.image_size)
        size = recipe.image_size
    else:
        assert meta is not None
        size = meta["image_size"]
        cfg.update(crop_mode="squash", crop_pct=1.0)
    cfg.update(input_size=(model.in_chans, size, size), num_classes=model.num_classes, label_names=list(class_names))
    return model, start


def _assembled(recipe: Recipe, num_classes: int) -> PooledClassifier:
    if recipe.backbone:
        return attach(recipe.backbone, cast(Any, recipe.head), num_classes, **recipe.model_args)
    for option in recipe.model_args:
        if option not in known_options():
            there = ", ".join(sorted(known_options()))
            raise ConfigError(f"recipe: model_args has no option {option!r}; there are {there}")
    return create_model(recipe.model, num_classes, **recipe.model_args)


def _statistics(recipe: Recipe, meta: Mapping[str, Any]) -> dict[str, Any]:
    prepared = Preprocess.of_set(meta, divide=recipe.normalize == "mean_std")
    if min(prepared.std) <= 0:
        std = meta["rgb_std"]
        raise DataError(f"a colour channel never varies (rgb_std {std}): use normalize: mean")
    return {"mean": prepared.mean, "std": prepared.std}


def _describe_view(cfg: dict[str, Any], recipe: Recipe) -> None:
    """Note how photographs are seen in evaluation, where the recipe says it in place of the network."""
    given = {"interpolation": recipe.interpolation, "crop_mode": recipe.crop_mode, "crop_pct": recipe.crop_pct}
    cfg.update({key: value for key, value in given.items() if value is not None})
    if cfg.get("interpolation") not in FILTERS:
        raise ConfigError(f"recipe: interpolation {cfg.get('interpolation')!r}; there are {', '.join(FILTERS)}")


def _require_size(model: PooledClassifier, size: int) -> None:
    """Refuse an image size that the backbone does not take, or of which it makes a single position."""
    trunk, usual = model.backbone, model.pretrained_cfg["input_size"][1]
    if not isinstance(trunk, BackboneModule):
        return
    try:
        height, width = trunk.map_size(size, size)
    except GmsopError:
        raise
    except Exception as error:  # however a network refuses a size
        reason = first_line(error)[:160]
        raise ConfigError(
            f"the backbone does not take images of {size} x {size} pixels ({reason}); it was made for {usual}. Pass "
            f"--image_size {usual}, or build it for another size where timm can: --model_args.model_args "
            f"'{{img_size: {size}}}'"
        ) from error
    second_order = any(isinstance(module, ISqrtCovPool | ParametricSOP) for module in model.pool.modules())
    if height * width < 2 and second_order:
        raise ConfigError(
            f"images of {size} x {size} pixels leave {height} x {width} position, of which there is no covariance; the "
            f"backbone was made for {usual}"
        )
