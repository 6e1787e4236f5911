"""What a run folder says."""

import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from gmsop.errors import CheckpointError, ConfigError
from gmsop.models.classifier import PooledClassifier
from gmsop.runs.environment import read_starts
from gmsop.runs.metrics import Epochs, read_metrics, total_seconds
from gmsop.weights.model_file import load_model

DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a file may raise that is not as a run wrote it."""


@dataclass(frozen=True)
class RunFolder:
    """A run, finished or not, as its files tell it."""

    path: Path
    recipe: dict[str, Any]
    metrics: Epochs
    timing: Epochs
    starts: list[dict[str, Any]]
    """`environment.json`: one entry per start."""
    model: PooledClassifier
    """Of the best epoch."""
    arrays: dict[str, NDArray[Any]] = field(repr=False)
    """`validation.npz`: confusion, and gate_weight and gate_chosen where there is a gate."""

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def class_names(self) -> list[str]:
        return self.model.pretrained_cfg.get("label_names") or [str(i) for i in range(self.model.num_classes)]

    @property
    def best_epoch(self) -> int:
        """The one whose weights were kept; in a folder that does not say, the one of the lowest error."""
        if (kept := int(self.arrays.get("epoch", -1))) in self.metrics:
            return kept
        return min(self.metrics, key=lambda epoch: (self.metrics[epoch]["val/top1_error"], epoch))

    @property
    def val_images(self) -> int:
        return int(self.arrays["confusion"].sum()) if "confusion" in self.arrays else 0

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def seconds(self) -> float:
        return total_seconds(self.timing)


def read_run(path: Path) -> RunFolder:
    """Read a run folder.

    Raises:
        ConfigError: not a run folder, or one without a finished epoch.
        CheckpointError: its weights are damaged.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: a file; a report is about the folder of a run")
    try:
        recipe = yaml.safe_load((path / "recipe.yaml").read_text(encoding="utf-8"))
        metrics = read_metrics(path / "metrics.csv")
    except FileNotFoundError as error:
        if not path.is_dir():
            raise ConfigError(f"{path}: no such folder") from None
        missing = Path(error.filename).name
        hint = "the run has not finished an epoch" if missing == "metrics.csv" else "not the folder of a run"
        raise ConfigError(f"{path}: {hint} (it has no {missing})") from None
    except (*DAMAGED, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: damaged ({type(error).__name__}: {error})") from error
    if not metrics or not isinstance(recipe, dict):
        raise ConfigError(f"{path}: the run has not finished an epoch")
    for what, rows in ((("model", "epochs"), [recipe]), (("val/top1_error", "val/top5_error"), metrics.values())):
        if lacking := [key for key in what if any(key not in row for row in rows)]:
            raise ConfigError(f"{path}: damaged (no {' or '.join(lacking)})")
    weights = next((f for name in ("model.safetensors", "best.ckpt") if (f := path / name).exists()), None)
    if weights is None:
        raise CheckpointError(f"{path}: neither model.safetensors nor best.ckpt")
    return RunFolder(
        path,
        recipe,
        metrics,
        _or_empty(lambda: read_metrics(path / "timing.csv"), {}),
        read_starts(path / "environment.json"),
        load_model(weights),
        _or_empty(lambda: _arrays(path / "validation.npz"), {}),
    )


def _arrays(file: Path) -> dict[str, NDArray[Any]]:
    with np.load(file) as content:
        arrays = dict(content)
    gate = {"gate_weight", "gate_chosen"}
    return arrays if gate <= set(arrays) else {name: arrays[name] for name in set(arrays) - gate}


def _or_empty(read: Any, empty: Any) -> Any:
    """A page is made of what is there."""
    try:
        return read()
    except DAMAGED:
        return empty
