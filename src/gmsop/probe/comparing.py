"""Compare heads on frozen features: every choice inside the training images, every difference paired over images."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gmsop.errors import ConfigError
from gmsop.nn.moments import Moments
from gmsop.probe.closed_form import BUDGET, fit_best
from gmsop.probe.comparison import CHOSEN, Comparison, Kept, Row, error_interval, paired
from gmsop.probe.features import Features
from gmsop.probe.folds import make_groups
from gmsop.probe.registry import PROBES, Fold, Outcome
from gmsop.probe.vectors import Block
from gmsop.utils.progress import progress_bar

DEFAULT_HEADS = ("average", "second_order")
MAX_IMAGES = 8000
"""Inner products of all images are kept: 8,000 take half a gigabyte for each layer and order."""


def compare(
    features: Features,
    heads: Sequence[str] = DEFAULT_HEADS,
    *,
    layers: Sequence[str] | None = None,
    pairs: bool = True,
    dims: Sequence[int] = (64, 128),
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    epochs: int = 20,
    progress: bool = False,
) -> Comparison:
    """Compare heads at every layer, and the best choice of layers of first with that of second order.

    Settings (penalty, dimension, rate, BatchNorm) are chosen inside the training images alone, by leave-one-out for
    closed-form probes, on a fifth held out for trained ones. So are the layers of the rows "chosen", between which the
    difference is told: the best single layer, or that and the block (a layer's mean, or its covariance) which lowers
    the error inside the training images most, beside each other.

    Args:
        heads: names of `gmsop.probe.list_probes()`; at least one of first and one of second order.
        layers: some of the features' layers; None: all.
        pairs: try blocks beside each other.
        dims: numbers of principal components to choose from.
        folds: of the cross-validation where the data has no test split; stratified.
        seeds: of folds and training; an image's error is the mean over them.
        epochs: of trained heads.
        progress: show a bar.

    Raises:
        UnknownNameError: no such head or layer; the text lists the nearest.
        ConfigError: no head of first or none of second order; values below 1; too many images.
        DataError: too few images of a class.
    """
    start = time.perf_counter()
    check_heads(heads, dims, seeds, epochs)
    if len(features) > MAX_IMAGES:
        raise ConfigError(f"{len(features):,} images; a comparison takes up to {MAX_IMAGES:,}: draw some of them")
    names = list(dict.fromkeys(heads))
    chosen_layers = features.layers if layers is None else [layer for layer in features.layers if layer in layers]
    for layer in layers or ():
        features.of(layer)
    found: dict[tuple[str, str], _Cell] = {}
    means: dict[Block, Tensor] = {}
    steps = len(seeds) * (folds if features.is_test is None else 1) * (len(names) * len(chosen_layers) + 2) + 1
    tested: NDArray[np.int64] = np.zeros(0, np.int64)
    with progress_bar(progress) as bar:
        task = bar.add_task("comparing", total=steps)
        for number, seed in enumerate(seeds):
            groups, count = make_groups(features, folds, seed)
            tested = np.sort(np.concatenate(groups[:count]))
            place = np.full(len(features), -1)
            place[tested] = np.arange(len(tested))
            moments = {layer: [Moments.of(features.batches(layer, rows)) for rows in groups] for layer in chosen_layers}
            for k in range(count):
                learnt = [g for g in range(len(groups)) if g != k]
                train = np.sort(np.concatenate([groups[g] for g in learnt]))
                fold = Fold(features, train, groups[k], learnt, moments, dims, epochs, seed, means)
                for key, one in _run(fold, names, chosen_layers, pairs, lambda: bar.advance(task)).items():
                    cell = found.setdefault(key, _Cell(len(seeds), len(tested)))
                    cell.add(one, number, place[groups[k]], features.labels[groups[k]])
        rows = _rows(found)
        every = range(len(groups)) if features.is_test is None else range(count, len(groups))
        train = np.sort(np.concatenate([groups[g] for g in every]))
        whole = Fold(features, train, train[:1], list(every), moments, dims, epochs, seeds[0], means)
        winner = _winner(whole, found, pairs)
        bar.advance(task)
    best = {order: next(row for row in rows if row.is_chosen and row.order == order) for order in (1, 2)}
    return Comparison(
        rows=rows,
        reference=best[1],
        best=best[2],
        images=len(features),
        test_images=tested,
        folds=folds if features.is_test is None else 0,
        seeds=tuple(seeds),
        about={key: features.meta[key] for key in ("backbone", "weights", "preprocess", "data", "class_names")},
        winner=winner,
        seconds=time.perf_counter() - start,
    )


def check_heads(heads: Sequence[str], dims: Sequence[int], seeds: Sequence[int], epochs: int) -> None:
    """Refuse what `compare` would refuse, before any features are there.

    Raises:
        UnknownNameError: no such head; the text lists the nearest.
        ConfigError: no head of first or none of second order, none that can become a model, or values below 1.
    """
    orders = {PROBES[name].order for name in heads}
    if not {1, 2} <= orders:
        known = {order: [p.name for p in PROBES if p.order == order] for order in (1, 2)}
        raise ConfigError(
            f"a comparison needs a head of first order ({', '.join(known[1])}) and one of second order "
            f"({', '.join(known[2])})"
        )
    if not any(PROBES[name].is_model for name in heads):
        raise ConfigError(f"none of {', '.join(heads)} can become a model; add average or second_order")
    if not dims or min(dims) < 1 or not seeds or epochs < 1:
        raise ConfigError(f"dims, seeds and epochs must be positive, got {dims}, {seeds} and {epochs}")
    if len(set(dims)) > BUDGET // 2:
        raise ConfigError(f"at most {BUDGET // 2} dims: a probe chooses among {BUDGET} settings, got {len(set(dims))}")


class _Run(NamedTuple):
    """What a head at a layer, or a choice of layers, gave on a fold."""

    outcome: Outcome
    settings: int
    """Among how many it was chosen."""
    seconds: float


_Runs = dict[tuple[str, str], _Run]
"""By head and layer."""


def _run(fold: Fold, names: Sequence[str], layers: Sequence[str], pairs: bool, advance: Callable[[], None]) -> _Runs:
    """Return what every head at every layer gave on a fold, and the choices of layers of either order."""
    found: _Runs = {}
    for name in names:
        for layer in layers:
            start = time.perf_counter()
            outcome = PROBES[name].run(fold, layer)
            found[name, layer] = _Run(outcome, PROBES[name].budget, time.perf_counter() - start)
            advance()
    for order, label in _LABELS.items():
        start = time.perf_counter()
        singles = {key: run for key, run in found.items() if key[1] != CHOSEN and PROBES[key[0]].order == order}
        blocks = _blocks(found, {1} if order == 1 else {1, 2}) if pairs else []
        _, outcome, tried = _choose(fold, {key: run.outcome for key, run in singles.items()}, blocks)
        settings = tried + sum(run.settings for run in singles.values())
        found[label, CHOSEN] = _Run(outcome, settings, time.perf_counter() - start)
        advance()
    return found


_LABELS = {1: "best of first order", 2: "best of second order"}


def _blocks(found: _Runs, orders: set[int]) -> list[Block]:
    """Return the single blocks that probes stand on, each layer's of one order with the dimension that was chosen."""
    single = {run.outcome.blocks[0] for run in found.values() if len(run.outcome.blocks) == 1}
    return sorted((block for block in single if block.order in orders and block.root == "newton_schulz"), key=str)


def _choose(fold: Fold, singles: dict[tuple[str, str], Outcome], blocks: Sequence[Block]) -> tuple[str, Outcome, int]:
    """Choose the head and layer with the least error inside the training images, or its blocks and another beside.

    A trained head stands alone; the best of those that stand on blocks is then tried with others all the same. Of
    equals the first by name is taken, so that the order in which heads were named does not matter.

    Returns:
        What was chosen in words, what it gave, and how many settings were tried for blocks beside each other.
    """
    names = sorted(singles, key=lambda key: (_inner(singles[key]), key))
    label, best, tried = " of ".join(names[0]), singles[names[0]], 0
    own = next((singles[key].blocks for key in names if singles[key].blocks), ())
    for block in blocks if own else ():
        if (block.layer, block.order) not in {(each.layer, each.order) for each in own}:
            together = fit_best(fold, [[*own, block]])
            tried += BUDGET
            if _inner(together) < _inner(best):
                label, best = " + ".join(map(str, together.blocks)), together
    return label, best, tried


def _inner(outcome: Outcome) -> float:
    return outcome.choice.wrong


@dataclass
class _Cell:
    """Gathers what a head at a layer answered over folds and seeds."""

    seeds: int
    images: int
    settings: int = 0
    size: int = 0
    seconds: float = 0.0
    chosen: list[str] = field(default_factory=list)
    inner: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wrong = np.ones((self.seeds, self.images), bool)
        self.answers = np.full(self.images, -1, np.int64)

    def add(self, run: "_Run", seed: int, places: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        outcome = run.outcome
        self.wrong[seed, places] = outcome.answers != labels
        if seed == 0:
            self.answers[places] = outcome.answers
        self.size = max(self.size, outcome.size)
        self.settings = max(self.settings, run.settings)
        self.seconds += run.seconds
        self.inner.append(100 * outcome.choice.wrong)
        setting = ", ".join(f"{key} {value:.3g}" for key, value in outcome.choice.setting.items())
        stands_on = " + ".join(map(str, outcome.blocks))
        self.chosen.append(f"{stands_on}: {setting}" if stands_on else setting)


def _rows(found: dict[tuple[str, str], _Cell]) -> list[Row]:
    """Return the rows, each with its difference to the best of first order; least error first, ties by name."""
    reference = found[_LABELS[1], CHOSEN]
    rows = []
    for (head, layers), cell in found.items():
        order = next((o for o, label in _LABELS.items() if label == head), None)
        rows.append(
            Row(
                head=head,
                layers=layers,
                order=PROBES[head].order if order is None else order,
                error=100 * float(cell.wrong.mean()),
                interval=error_interval(cell.wrong),
                difference=None if cell is reference else paired(cell.wrong, reference.wrong),
                settings=cell.settings,
                size=cell.size,
                seconds=cell.seconds,
                chosen=tuple(cell.chosen),
                inner=float(np.mean(cell.inner)),
                wrong=cell.wrong,
                answers=cell.answers,
            )
        )
    return sorted(rows, key=lambda row: (row.error, row.head, row.layers))


def _winner(whole: Fold, found: dict[tuple[str, str], _Cell], pairs: bool) -> Kept:
    """Choose the model to keep, of either order, and its settings, with all images that may be learnt from.

    The head and layer are those with the least error inside the folds' training images, of those that can become a
    model; what may stand beside is tried anew.
    """
    usable = {
        key: float(np.mean(cell.inner)) for key, cell in found.items() if key[1] != CHOSEN and PROBES[key[0]].is_model
    }
    head, layer = min(sorted(usable), key=usable.__getitem__)
    outcome = PROBES[head].run(whole, layer)
    if outcome.part or not pairs:
        return Kept(f"{head} of {layer}", head, layer, outcome)
    blocks = [
        Block(name, order, max(whole.dims_of(name)) if order == 2 else 0) for name in whole.moments for order in (1, 2)
    ]
    label, outcome, _ = _choose(whole, {(head, layer): outcome}, blocks)
    return Kept(label, head, layer, outcome)
