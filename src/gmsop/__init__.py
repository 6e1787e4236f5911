"""Second-order pooling and gated mixtures of it (GM-SOP, NeurIPS 2018) for PyTorch vision models.

Everything is loaded when it is first used, so that `import gmsop` alone does not import torch. timm knows gmsop's
models as soon as both are imported.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from gmsop.errors import GmsopError
from gmsop.utils.after_import import after_import
from gmsop.utils.lazy import lazy_names

try:
    __version__ = version("gmsop")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

if TYPE_CHECKING:
    from gmsop import (
        backbones,
        convert,
        data,
        evaluation,
        export,
        heads,
        models,
        nn,
        ops,
        probe,
        runs,
        training,
        weights,
    )
    from gmsop.evaluation.error_rates import evaluate
    from gmsop.evaluation.prediction import predict
    from gmsop.export import export_model
    from gmsop.heads import list_heads
    from gmsop.models import BalancedCrossEntropy, attach, create_model, list_models, param_groups
    from gmsop.report.page import write_report
    from gmsop.training.run import train
    from gmsop.weights import load_model, save_model
else:
    _ROOMS = (
        "backbones",
        "convert",
        "data",
        "evaluation",
        "export",
        "heads",
        "models",
        "nn",
        "ops",
        "probe",
        "runs",
        "training",
        "weights",
    )
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            **{room: f"gmsop.{room}" for room in _ROOMS},
            "BalancedCrossEntropy": "gmsop.models:BalancedCrossEntropy",
            "attach": "gmsop.models:attach",
            "create_model": "gmsop.models:create_model",
            "evaluate": "gmsop.evaluation.error_rates:evaluate",
            "export_model": "gmsop.export:export_model",
            "list_heads": "gmsop.heads:list_heads",
            "list_models": "gmsop.models:list_models",
            "load_model": "gmsop.weights:load_model",
            "param_groups": "gmsop.models:param_groups",
            "predict": "gmsop.evaluation.prediction:predict",
            "save_model": "gmsop.weights:save_model",
            "train": "gmsop.training.run:train",
            "write_report": "gmsop.report.page:write_report",
        },
    )

__all__ = [
    "BalancedCrossEntropy",
    "GmsopError",
    "__version__",
    "attach",
    "backbones",
    "convert",
    "create_model",
    "data",
    "evaluate",
    "evaluation",
    "export",
    "export_model",
    "heads",
    "list_heads",
    "list_models",
    "load_model",
    "models",
    "nn",
    "ops",
    "param_groups",
    "predict",
    "probe",
    "runs",
    "save_model",
    "train",
    "training",
    "weights",
    "write_report",
]

after_import("timm", lambda: import_module("gmsop.models"))
