"""Read what a run folder says."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmsop.errors import CheckpointError, ConfigError, DataError
from gmsop.models.classifier import PooledClassifier
from gmsop.runs.environment import read_starts
from gmsop.runs.metrics import Epochs, read_metrics, read_timing, total_seconds
from gmsop.utils.arrays import read_npz
from gmsop.utils.text import open_text
from gmsop.utils.yaml_files import LONGEST, load_yaml
from gmsop.weights.model_file import load_model

HELD_OUT = "held_out.txt"
"""Names of the training images that were held out to validate on."""
DAMAGED = (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, DataError)
"""Errors that reading a missing or damaged file may raise."""


@dataclass(frozen=True)
class RunFolder:
    """Holds what the files of a run, finished or not, say about it."""

    path: Path
    recipe: dict[str, Any]
    metrics: Epochs
    timing: Epochs
    starts: list[dict[str, Any]]
    """`environment.json`: one entry per start."""
    model: PooledClassifier
    """The model with the weights of the best epoch."""
    arrays: dict[str, NDArray[Any]] = field(repr=False)
    """`validation.npz`: confusion, and gate_weight and gate_chosen where there is a gate."""

    @property
    def name(self) -> str:
        """Return the folder's own name."""
        return self.path.resolve().name

    @property
    def class_names(self) -> list[str]:
        """Return the names of the model's classes, or their numbers if it has no names."""
        return self.model.pretrained_cfg.get("label_names") or [str(i) for i in range(self.model.num_classes)]

    @property
    def best_epoch(self) -> int:
        """Return the epoch whose weights were kept; if the folder does not say, the one with the lowest error."""
        if (kept := int(self.arrays.get("epoch", -1))) in self.metrics:
            return kept
        return min(self.metrics, key=lambda epoch: (self.metrics[epoch]["val/top1_error"], epoch))

    @property
    def val_images(self) -> int:
        """Return how many val images were evaluated; 0 if the folder does not say."""
        return int(self.arrays["confusion"].sum()) if "confusion" in self.arrays else 0

    @property
    def parameters(self) -> int:
        """Return how many parameters the model has."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def seconds(self) -> float:
        """Return the seconds of training and validation, over all epochs."""
        return total_seconds(self.timing)


def read_run(path: Path) -> RunFolder:
    """Read a run folder.

    Raises:
        ConfigError: it is not a run folder, is damaged, or has no finished epoch.
        CheckpointError: its weights are missing or damaged.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: a file; a report is about the folder of a run")
    try:
        with open_text(path / "recipe.yaml") as file:
            recipe = load_yaml(file.read(LONGEST + 1), str(path / "recipe.yaml"))
        metrics = read_metrics(path / "metrics.csv")
    except FileNotFoundError as error:
        if not path.is_dir():
            raise ConfigError(f"{path}: no such folder") from None
        missing = Path(error.filename).name
        hint = "the run has not finished an epoch" if missing == "metrics.csv" else "not the folder of a run"
        raise ConfigError(f"{path}: {hint} (it has no {missing})") from None
    except ConfigError:
        raise
    except DAMAGED as error:
        raise ConfigError(f"{path}: damaged ({type(error).__name__}: {error})") from error
    if not metrics or not isinstance(recipe, dict):
        raise ConfigError(f"{path}: the run has not finished an epoch")
    for what, rows in ((("model", "epochs"), [recipe]), (("val/top1_error", "val/top5_error"), metrics.values())):
        if lacking := [key for key in what if any(key not in row for row in rows)]:
            raise ConfigError(f"{path}: damaged (no {' or '.join(lacking)})")
    errors = [row[key] for row in metrics.values() for key in ("val/top1_error", "val/top5_error")]
    if not all(0 <= error <= 100 for error in errors):
        raise ConfigError(f"{path}: damaged (an error that is no share of the images)")
    weights = next((f for name in ("model.safetensors", "best.ckpt") if (f := path / name).exists()), None)
    if weights is None:
        raise CheckpointError(f"{path}: neither model.safetensors nor best.ckpt")
    return RunFolder(
        path,
        recipe,
        metrics,
        _or_empty(lambda: read_timing(path / "timing.csv"), {}),
        read_starts(path / "environment.json"),
        load_model(weights),
        _or_empty(lambda: _arrays(path / "validation.npz"), {}),
    )


def _arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of `validation.npz` that can be what a run wrote."""
    found = read_npz(file, 2**28)
    epoch, confusion = found.get("epoch", np.zeros(())), found.get("confusion", np.zeros((1, 1)))
    if epoch.shape != () or confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or (confusion < 0).any():
        raise DataError(f"{file}: damaged")
    gate = [found.get(name) for name in ("gate_weight", "gate_chosen")]
    sound = [g for g in gate if g is not None and g.ndim == 2 and len(g) == len(confusion) and np.isfinite(g).all()]
    if len(sound) == 2 and sound[0].shape == sound[1].shape:
        return found
    return {name: array for name, array in found.items() if not name.startswith("gate_")}


def _or_empty(read: Any, empty: Any) -> Any:
    """Return what `read` reads, or `empty` if the file is missing or damaged: a page shows what is there."""
    try:
        return read()
    except DAMAGED:
        return empty
