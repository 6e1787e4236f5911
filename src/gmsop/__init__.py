"""Second-order pooling and gated mixtures of it (GM-SOP, NeurIPS 2018) for PyTorch vision models."""

from importlib.metadata import PackageNotFoundError, version

from gmsop import nn, ops
from gmsop.errors import GmsopError
from gmsop.models import create_model, list_models

try:
    __version__ = version("gmsop")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

__all__ = ["GmsopError", "__version__", "create_model", "list_models", "nn", "ops"]
