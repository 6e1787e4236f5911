"""Second-order pooling is covariance, its square root and the upper triangle: as three steps, and as one operator."""

from gmsop.ops.second_order.covariance import covariance_pool
from gmsop.ops.second_order.matrix_sqrt import eigh_sqrt, newton_schulz_sqrt
from gmsop.ops.second_order.pooling import second_order_pool
from gmsop.ops.second_order.triu import triu_size, triu_unvectorize, triu_vectorize

__all__ = [
    "covariance_pool",
    "eigh_sqrt",
    "newton_schulz_sqrt",
    "second_order_pool",
    "triu_size",
    "triu_unvectorize",
    "triu_vectorize",
]
