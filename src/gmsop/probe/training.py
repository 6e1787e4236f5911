"""Train a pooling module and a linear classifier on cached features."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from gmsop.nn import ISqrtCovPool
from gmsop.ops import balance_loss
from gmsop.probe.features import Features
from gmsop.probe.folds import held_out
from gmsop.probe.registry import Fold, Outcome
from gmsop.probe.ridge import Choice

BATCH = 64
BALANCE_WEIGHT = 100.0
"""Of the balance loss beside the sum of the cross-entropies, as in the paper's recipes."""
IN_MEMORY = 2**31
"""A layer's maps of up to so many bytes, in float32, are read into memory before training."""

Maker = Callable[[Features, str, bool], nn.Module]
"""`make(features, layer, batch_norm)` gives what turns maps (B, C, H, W) into logits."""

SETTINGS = [{"lr": lr, "batch_norm": norm} for lr in (1e-3, 4e-3) for norm in (0, 1)]


def run_trained(fold: Fold, layer: str, make: Maker, settings: list[dict[str, float]]) -> Outcome:
    """Choose a setting on a fifth of the training images, train on all of them, and answer.

    While choosing, a training takes a quarter of the epochs, at least two.
    """
    out = held_out(fold.labels, 0.2, fold.seed)
    kept, checked = fold.train[~out], fold.train[out]
    found = []
    for setting in settings if len(settings) > 1 else []:
        module = train(fold.features, layer, kept, make, setting, max(2, fold.epochs // 4), fold.seed)
        logits = answers(module, fold.features, layer, checked)
        labels = torch.from_numpy(fold.features.labels[checked])
        wrong = float((logits.argmax(1) != labels).double().mean())
        found.append(Choice(setting, wrong, float(F.cross_entropy(logits, labels))))
    choice = min(found, key=Choice.key) if found else Choice(settings[0], math.nan, math.nan)
    module = train(fold.features, layer, fold.train, make, choice.setting, fold.epochs, fold.seed)
    logits = answers(module, fold.features, layer, fold.test)
    return Outcome(choice, logits.argmax(1).numpy(), int(getattr(module, "head_size", 0)))


def train(
    features: Features,
    layer: str,
    rows: NDArray[np.int64],
    make: Maker,
    setting: dict[str, float],
    epochs: int,
    seed: int,
) -> nn.Module:
    """Train with AdamW, a cosine schedule, and the balance loss where there is a gate; return the module, evaluating.

    A reduction of `init="pca"` starts from the principal components of the images. The mirrored images, if there are
    any, take turns with the others by chance.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make(features, layer, bool(setting["batch_norm"]))
        for part in module.modules():
            if isinstance(part, ISqrtCovPool) and part.init == "pca":
                part.start_from(features.batches(layer, rows))
        plain = [p for p in module.parameters() if p.dim() < 2]
        groups = [
            {"params": [p for p in module.parameters() if p.dim() >= 2], "weight_decay": 0.05},
            {"params": plain, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=setting["lr"])
        steps = epochs * math.ceil(len(rows) / BATCH)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: _rate(k, steps))
        labels = torch.from_numpy(features.labels)
        read = _reader(features, layer, rows)
        module.train()
        for chosen in _batches(len(rows), epochs, seed):
            x, y = read(chosen), labels[torch.from_numpy(rows[chosen])]
            gated = getattr(module, "gate", None) is not None
            logits, routing = module(x, return_routing=True) if gated else (module(x), None)
            loss = F.cross_entropy(logits, y)
            if routing is not None:
                loss = loss + BALANCE_WEIGHT / len(y) * balance_loss(routing.dense)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return module.eval()


def answers(module: nn.Module, features: Features, layer: str, rows: NDArray[np.int64]) -> Tensor:
    """Return the logits (m, classes) of some images."""
    with torch.no_grad():
        return torch.cat([module(x) for x in features.batches(layer, rows, BATCH)])


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _batches(count: int, epochs: int, seed: int) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(count)
        yield from np.array_split(order, math.ceil(count / BATCH))  # all of about one size, as BatchNorm likes them


def _reader(features: Features, layer: str, rows: NDArray[np.int64]) -> Callable[[NDArray[np.int64]], Tensor]:
    views = [features.of(layer)] + ([features.flipped[layer]] if features.flipped else [])
    size = len(rows) * int(np.prod(views[0].shape[1:])) * 4 * len(views)
    if size <= IN_MEMORY:
        loaded = [torch.from_numpy(np.asarray(view[rows], np.float32)) for view in views]
        if len(loaded) == 1:
            return lambda chosen: loaded[0][torch.from_numpy(chosen)]
        both = torch.stack(loaded)
        return lambda chosen: both[torch.randint(len(views), (len(chosen),)), torch.from_numpy(chosen)]

    def read(chosen: NDArray[np.int64]) -> Tensor:
        turn = torch.randint(len(views), (len(chosen),)).tolist()
        picked = [np.asarray(views[view][row], np.float32) for view, row in zip(turn, rows[chosen], strict=True)]
        return torch.from_numpy(np.stack(picked))

    return read
