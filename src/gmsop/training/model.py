"""`fresh_model` builds a model as a recipe and a set ask for it."""

import torch
from torch import nn

from gmsop.data import PackedDataset
from gmsop.data.preprocess import Preprocess
from gmsop.errors import ConfigError, DataError
from gmsop.models.classifier import PooledClassifier
from gmsop.models.names import create_model
from gmsop.models.spec import known_options
from gmsop.training.recipe import Recipe


def fresh_model(recipe: Recipe, dataset: PackedDataset) -> PooledClassifier:
    """Build the recipe's model with as many classes as the set has, its input prepared by the set's statistics.

    Raises:
        UnknownNameError: no such model.
        ConfigError: an option that models do not have.
        DataError: a colour channel never varies, but is to be divided by its standard deviation.
    """
    for option in recipe.model_args:
        if option not in known_options():
            there = ", ".join(sorted(known_options()))
            raise ConfigError(f"recipe: model_args has no option {option!r}; there are {there}")
    model = create_model(recipe.model, len(dataset.class_names), **recipe.model_args)
    with torch.no_grad():
        for weight in model.backbone.stem_parameters():  # type: ignore[operator]
            weight.div_(recipe.stem_scale)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = recipe.bn_momentum
    prepared = Preprocess.of_set(dataset.meta, divide=recipe.normalize == "mean_std")
    if min(prepared.std) <= 0:
        std = dataset.meta["rgb_std"]
        raise DataError(f"{dataset.path}: a colour channel never varies (rgb_std {std}): use normalize: mean")
    model.pretrained_cfg.update(
        mean=prepared.mean,
        std=prepared.std,
        input_size=(3, dataset.image_size, dataset.image_size),
        num_classes=model.num_classes,
        label_names=dataset.class_names,
    )
    return model
