"""Second-order pooling and gated mixtures of it (GM-SOP, NeurIPS 2018) for PyTorch vision models.

Everything is loaded when it is first used, so that `import gmsop` alone does not import torch. timm knows gmsop's
models as soon as both are imported.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from gmsop.errors import GmsopError
from gmsop.utils.after_import import after_import

try:
    __version__ = version("gmsop")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

if TYPE_CHECKING:
    from gmsop import backbones, convert, data, evaluation, heads, models, nn, ops, runs, training, weights
    from gmsop.evaluation.error_rates import evaluate
    from gmsop.evaluation.prediction import predict
    from gmsop.heads import list_heads
    from gmsop.models import create_model, list_models
    from gmsop.report.page import write_report
    from gmsop.training.run import train
    from gmsop.weights import load_model, save_model
else:
    _ROOMS = (
        "backbones", "convert", "data", "evaluation", "heads", "models", "nn", "ops", "runs", "training", "weights",
    )  # fmt: skip
    _FUNCTIONS = {
        "create_model": "gmsop.models",
        "evaluate": "gmsop.evaluation.error_rates",
        "list_heads": "gmsop.heads",
        "list_models": "gmsop.models",
        "load_model": "gmsop.weights",
        "predict": "gmsop.evaluation.prediction",
        "save_model": "gmsop.weights",
        "train": "gmsop.training.run",
        "write_report": "gmsop.report.page",
    }

    def __getattr__(name: str) -> Any:
        if name in _ROOMS:
            return import_module(f"gmsop.{name}")
        if name in _FUNCTIONS:
            return getattr(import_module(_FUNCTIONS[name]), name)
        raise AttributeError(f"module 'gmsop' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "GmsopError",
    "__version__",
    "backbones",
    "convert",
    "create_model",
    "data",
    "evaluate",
    "evaluation",
    "heads",
    "list_heads",
    "list_models",
    "load_model",
    "models",
    "nn",
    "ops",
    "predict",
    "runs",
    "save_model",
    "train",
    "training",
    "weights",
    "write_report",
]

after_import("timm", lambda: import_module("gmsop.models"))
