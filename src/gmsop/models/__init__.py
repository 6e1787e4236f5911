"""Models of a backbone, a head and a classifier: names, descriptions, costs, published results."""

from gmsop.models.classifier import PooledClassifier
from gmsop.models.names import build_spec, create_model, list_models
from gmsop.models.spec import ModelSpec

__all__ = ["ModelSpec", "PooledClassifier", "build_spec", "create_model", "list_models"]
