"""Say what a checkpoint must hold for a run to go on from it, so that a damaged one is refused when it is opened."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gmsop.training.totals import EpochTotals

MOST = 2**53
"""Counts are at most so large."""
SCHEDULED = ("params", "lr", "initial_lr", "momentum", "betas", "weight_decay")
"""What a group of parameters holds that a schedule or a changed recipe may change."""
SAME_SHAPE = ("momentum_buffer", "exp_avg", "exp_avg_sq")
"""Entries of an optimiser's state that are shaped as their parameter."""


def wrong_in(checkpoint: Mapping[str, Any]) -> str:
    """Return in words what in a checkpoint of gmsop's training cannot be, or "".

    Args:
        checkpoint: as `read_training_checkpoint` returns it: `gmsop` is a dict and `state_dict` another.
    """
    own = checkpoint["gmsop"]
    for key, is_good in _OWN.items():
        if not is_good(own[key]):
            return f"gmsop.{key}"
    for key, is_good in _LIGHTNING.items():
        if not is_good(checkpoint.get(key)):
            return key
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in checkpoint["state_dict"].items()):
        return "state_dict"
    if wrong := _wrong_totals(own["totals"], own["world_size"]):
        return f"gmsop.totals.{wrong}"
    for key in ("skipped_in_a_row", "passes"):
        if not _is_count(own.get(key, 0)):
            return f"gmsop.{key}"
    if not _is_rows_of_files(own.get("rows", {})):
        return "gmsop.rows"
    if "rows" in own and len(own["rows"].get("metrics.csv", {})) != own["epoch"] and own["rows"]:
        return "gmsop.rows (of another number of epochs)"
    if not _is_validation(own.get("validation", {})):
        return "gmsop.validation"
    progress = checkpoint["loops"]["fit_loop"]
    if progress["epoch_progress"]["current"]["processed"] != own["epoch"]:
        return "gmsop.epoch (the loop was in another)"
    batches = progress["epoch_loop.batch_progress"]["current"]["processed"]
    if own["images"] and (not batches or own["images"] % batches):
        return "gmsop.images (the loop was elsewhere)"
    return ""


def wrong_for(checkpoint: Mapping[str, Any], optimizer: torch.optim.Optimizer, num_components: int) -> str:
    """Return in words what in a sound checkpoint does not fit the run that is to go on from it, or "".

    Args:
        optimizer: of the run, as it is before its first step.
        num_components: of the run's gate; 0 without one.
    """
    if len(checkpoint["gmsop"]["totals"]["weight"][0]) != num_components:
        return "gmsop.totals (of another number of components)"
    saved = checkpoint["optimizer_states"][0]
    sizes = [[len(group["params"]) for group in groups] for groups in (saved["param_groups"], optimizer.param_groups)]
    if sizes[0] != sizes[1]:
        return "optimizer_states (other groups of parameters)"
    order = [index for group in saved["param_groups"] for index in group["params"]]
    if order != list(range(len(order))):
        return "optimizer_states (parameters in another order)"
    for before, now in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        fixed = {key for key in now if key not in SCHEDULED}
        if changed := [key for key in fixed if key not in before or before[key] != now[key]]:
            return f"optimizer_states ({', '.join(sorted(changed))} of a group)"
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, state in saved["state"].items():
        if index >= len(parameters):
            return f"optimizer_states (there is no parameter {index})"
        for key, value in state.items():
            if key in SAME_SHAPE and (not isinstance(value, Tensor) or value.shape != parameters[index].shape):
                return f"optimizer_states ({key} of parameter {index} has another shape)"
            if isinstance(value, Tensor) and not (value.is_floating_point() and value.isfinite().all()):
                return f"optimizer_states ({key} of parameter {index} is not finite numbers)"
    return ""


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST


PLAIN = (torch.int64, torch.int32, torch.float32, torch.float64)


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < MOST)


def _wrong_totals(totals: Mapping[str, Any], ranks: int) -> str:
    for name, state in EpochTotals().metric_state.items():
        value = totals.get(name)
        assert isinstance(state, Tensor)
        if not isinstance(value, Tensor) or value.dim() != 1 + state.dim() or len(value) != ranks:
            return name
        if value.dtype != state.dtype or not value.isfinite().all():
            return name
    return "" if totals["weight"].shape == totals["chosen"].shape else "chosen"


def _is_rows_of_files(files: Any) -> bool:
    """Whether it is the rows of CSV files: numbers by name, by epoch, by file."""
    return isinstance(files, dict) and all(
        isinstance(rows, dict)
        and list(rows) == list(range(len(rows)))
        and all(
            isinstance(row, dict) and all(_is_column(k) and _is_number(v) for k, v in row.items())
            for row in rows.values()
        )
        for rows in files.values()
    )


def _is_column(name: Any) -> bool:
    return isinstance(name, str) and name != "epoch" and re.fullmatch(r"[\w/ .-]{1,100}", name) is not None


def _is_validation(arrays: Any) -> bool:
    names = {"confusion", "gate_weight", "gate_chosen"}
    return (
        isinstance(arrays, dict)
        and set(arrays) <= names
        and all(isinstance(value, Tensor) and value.dim() == 2 and value.dtype in PLAIN for value in arrays.values())
    )


def _is_optimizer_state(states: Any) -> bool:
    if not isinstance(states, list) or len(states) != 1 or not isinstance(states[0], dict):
        return False
    state, groups = states[0].get("state"), states[0].get("param_groups")
    return (
        isinstance(state, dict)
        and all(_is_count(index) and isinstance(entry, dict) for index, entry in state.items())
        and isinstance(groups, list)
        and all(
            isinstance(group, dict) and isinstance(group.get("params"), list) and all(map(_is_count, group["params"]))
            for group in groups
        )
    )


def _is_loops(loops: Any) -> bool:
    """Whether Lightning's loops say where they were, in counts alone."""
    return (
        isinstance(loops, dict)
        and _has(loops, ("fit_loop", "epoch_progress", "current", "processed"))
        and _has(loops, ("fit_loop", "epoch_loop.batch_progress", "current", "processed"))
        and _holds_counts(loops)
    )


def _has(tree: Any, path: tuple[str, ...]) -> bool:
    for key in path:
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return _is_count(tree)


def _holds_counts(tree: Any) -> bool:
    if isinstance(tree, dict):
        return all(isinstance(key, str) and _holds_counts(value) for key, value in tree.items())
    return tree is None or isinstance(tree, bool) or _is_count(tree)


def _is_callbacks(callbacks: Any) -> bool:
    writer = callbacks.get("CheckpointWriter") if isinstance(callbacks, dict) else None
    return (
        isinstance(writer, dict)
        and _is_number(writer.get("best_top1_error"))
        and not math.isnan(writer["best_top1_error"])
        and type(writer.get("best_epoch")) is int
    )


_OWN: dict[str, Callable[[Any], bool]] = {
    "epoch": _is_count,
    "images": _is_count,
    "world_size": lambda value: _is_count(value) and 0 < value < 2**20,
    "data": lambda value: isinstance(value, str),
    "totals": lambda value: isinstance(value, dict),
    "recipe": lambda value: isinstance(value, dict) and all(isinstance(key, str) for key in value),
    "model": lambda value: isinstance(value, dict),
}
_LIGHTNING: dict[str, Callable[[Any], bool]] = {
    "epoch": _is_count,
    "global_step": _is_count,
    "optimizer_states": _is_optimizer_state,
    "lr_schedulers": lambda value: value == [],
    "loops": _is_loops,
    "callbacks": _is_callbacks,
}
"""Entries of a checkpoint, and what says that they can be."""
