"""Second-order pooling and gated mixtures of it (GM-SOP, NeurIPS 2018) for PyTorch vision models."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from gmsop import nn, ops
from gmsop.errors import GmsopError
from gmsop.models import create_model, list_models

try:
    __version__ = version("gmsop")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

_ON_DEMAND = ("checkpoint", "convert", "data", "evaluation", "prediction", "recipe", "report", "training")


def __getattr__(name: str) -> ModuleType:
    """`gmsop.data`, `gmsop.convert`, ... without an import of their own, loaded when first used."""
    if name in _ON_DEMAND:
        return import_module(f"gmsop.{name}")
    raise AttributeError(f"module 'gmsop' has no attribute {name!r}")


__all__ = ["GmsopError", "__version__", "create_model", "list_models", "nn", "ops"]
