"""Look at some training images before the first step: for a reduction's start, and for the classifier's rate."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from gmsop.data.preprocess import Preprocess
from gmsop.data.streamed import Streamed
from gmsop.engine.messages import is_first_process
from gmsop.errors import ConfigError
from gmsop.models import PooledClassifier
from gmsop.nn import ISqrtCovPool
from gmsop.training.optimizer import optimizer_of
from gmsop.training.parameter_groups import set_learning
from gmsop.training.plan import Plan
from gmsop.training.recipe import Recipe

IMAGES, BATCH = 256, 32


def prepare_start(plan: Plan, device: torch.device, loader: Any) -> float | None:
    """Start reductions from principal components, where the head asks for it; find the classifier's share of the rate.

    Returns:
        What `classifier_lr_scale: auto` is for these images; None if the recipe says a number.

    Raises:
        ConfigError: "auto" without a classifier's inputs, from an optimiser whose rate the curvature does not bound.
    """
    model, recipe = plan.model, plan.recipe
    reductions = [(place, pool) for place, pool in enumerate(_pools(model)) if getattr(pool, "init", None) == "pca"]
    is_auto = recipe.classifier_lr_scale == "auto"
    limit = optimizer_of(recipe).classifier_limit
    if is_auto and limit is None and is_first_process():
        print(f"classifier_lr_scale auto: 1: how large a step of {recipe.optimizer} may be is not known", flush=True)
    wants_share = is_auto and limit is not None
    if wants_share or (reductions and recipe.has_weights):
        batches = [images.to(device) for images in _some_images(plan, loader)]
        if recipe.has_weights:
            _start_reductions(model, device, reductions, batches)
    if not is_auto or limit is None:
        return 1.0 if is_auto else None
    inputs = classifier_inputs(model, recipe, plan.frozen, batches)
    rate = limit(inputs, model.num_classes, recipe.momentum)
    if not math.isfinite(rate) or rate <= 0:
        raise ConfigError(f"classifier_lr_scale auto: its inputs allow a rate of {rate}; give a number")
    share = min(1.0, rate / (recipe.lr * recipe.head_lr_scale))
    if is_first_process():
        print(f"classifier_lr_scale auto: {share:.3g} (its inputs allow a rate of {rate:.3g})", flush=True)
    return share


def _pools(model: PooledClassifier) -> list[nn.Module]:
    return list(cast(Any, model.pool).pools) if hasattr(model.pool, "pools") else [model.pool]


def _some_images(plan: Plan, loader: Any) -> list[Tensor]:
    """Return the first images of the first epoch, uint8 (b, S, S, 3), in batches; the same on all ranks."""
    train_set: Any = plan.train_set
    if isinstance(train_set, Streamed):
        found: list[Tensor] = []
        for images, _ in loader:
            found.append(images)
            if sum(map(len, found)) >= IMAGES:
                break
        return found
    count = min(IMAGES, len(train_set))
    order = torch.randperm(len(train_set), generator=torch.Generator().manual_seed(plan.recipe.seed))[:count].numpy()
    parts = np.array_split(order, max(1, round(count / BATCH)))
    return [torch.from_numpy(np.array(train_set.batch(rows)[0])) for rows in parts]


@torch.no_grad()
def _start_reductions(
    model: PooledClassifier, device: torch.device, reductions: list[tuple[int, Any]], batches: list[Tensor]
) -> None:
    if not reductions:
        return
    with _as_before(model), _on(model, device):
        model.eval()
        prepared = Preprocess.of(model.pretrained_cfg)
        features = [model.forward_features(prepared.input(images)) for images in batches]
        for place, pool in reductions:
            if isinstance(pool, ISqrtCovPool):
                pool.start_from(_map_of(model, each, place) for each in features)


def _map_of(model: PooledClassifier, features: Any, place: int) -> Tensor:
    maps = cast(Any, model.backbone).positions(features)[0]
    return maps[place] if isinstance(maps, tuple) else maps


@torch.no_grad()
def classifier_inputs(
    model: PooledClassifier, recipe: Recipe, frozen: Sequence[nn.Parameter], batches: list[Tensor]
) -> Tensor:
    """Return what the classifier sees of the images (n, V), as in training but without dropout."""
    device = batches[0].device
    with _as_before(model), _on(model, device):
        set_learning(model, recipe, frozen, 0)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        prepared = Preprocess.of(model.pretrained_cfg)
        return torch.cat(
            [
                model.forward_head(model.forward_features(prepared.input(images)), pre_logits=True).float().cpu()
                for images in batches
            ]
        )


@contextmanager
def _as_before(model: nn.Module) -> Iterator[None]:
    """Put modes and statistics of a model back at the end, what learns, and the generators."""
    learns = {p: p.requires_grad for p in model.parameters()}
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng():
        try:
            yield
        finally:
            for p, before in learns.items():  # else what is frozen at first would be missing from the optimiser
                p.requires_grad_(before)
            for module, mode in modes.items():
                module.training = mode
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


@contextmanager
def _on(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Have a model on a device for a while."""
    before = next(model.parameters()).device
    model.to(device)
    try:
        yield
    finally:
        model.to(before)
