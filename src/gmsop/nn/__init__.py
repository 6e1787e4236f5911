"""Modules with parameters: pooling layers, gate, mixture, backbones, classifier."""

from gmsop.nn.backbones import SmallImageResNet
from gmsop.nn.classifier import PooledClassifier
from gmsop.nn.gate import Routing, TopKGate
from gmsop.nn.mixture import GatedMixture
from gmsop.nn.pooling import GlobalAvgPool, ISqrtCovPool, ParametricGAP, ParametricSOP

__all__ = [
    "GatedMixture",
    "GlobalAvgPool",
    "ISqrtCovPool",
    "ParametricGAP",
    "ParametricSOP",
    "PooledClassifier",
    "Routing",
    "SmallImageResNet",
    "TopKGate",
]
