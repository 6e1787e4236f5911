"""These are the modules with parameters: pooling layers, the gate, the mixture."""

from gmsop.nn.gate import Routing, TopKGate
from gmsop.nn.mixture import GatedMixture
from gmsop.nn.multi_layer import MultiLayerPool
from gmsop.nn.pooling import Fusible, GlobalAvgPool, ISqrtCovPool, ParametricGAP, ParametricSOP

__all__ = [
    "Fusible",
    "GatedMixture",
    "GlobalAvgPool",
    "ISqrtCovPool",
    "MultiLayerPool",
    "ParametricGAP",
    "ParametricSOP",
    "Routing",
    "TopKGate",
]
