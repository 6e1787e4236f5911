"""Pure functions on tensors: second-order pooling and sparse gating. `ops.naive` holds their slow, obvious oracles."""

from gmsop.ops.component_conv import component_conv
from gmsop.ops.covariance import covariance_pool
from gmsop.ops.dispatch import Plan, combine, dispatch, plan_dispatch, weighted_sum
from gmsop.ops.gating import balance_loss, dense_gates, gate_logits, top_k_gates, top_k_indices
from gmsop.ops.matrix_sqrt import eigh_sqrt, newton_schulz_sqrt
from gmsop.ops.second_order import second_order_pool
from gmsop.ops.triu import triu_size, triu_unvectorize, triu_vectorize

__all__ = [
    "Plan",
    "balance_loss",
    "combine",
    "component_conv",
    "covariance_pool",
    "dense_gates",
    "dispatch",
    "eigh_sqrt",
    "gate_logits",
    "newton_schulz_sqrt",
    "plan_dispatch",
    "second_order_pool",
    "top_k_gates",
    "top_k_indices",
    "triu_size",
    "triu_unvectorize",
    "triu_vectorize",
    "weighted_sum",
]
