"""A model is a backbone, a head and a classifier; here are names, descriptions, costs and published results."""

from gmsop.models.attach import attach
from gmsop.models.classifier import PooledClassifier
from gmsop.models.foreign_loops import BalancedCrossEntropy, param_groups
from gmsop.models.names import build_spec, create_model, list_models
from gmsop.models.spec import ModelSpec

__all__ = [
    "BalancedCrossEntropy",
    "ModelSpec",
    "PooledClassifier",
    "attach",
    "build_spec",
    "create_model",
    "list_models",
    "param_groups",
]
