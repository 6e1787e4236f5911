"""These are pure functions on tensors: second-order pooling and the mixture, each beside a slow, obvious reference."""

from gmsop.ops.mixture import (
    Plan,
    balance_loss,
    combine,
    component_conv,
    dense_gates,
    dispatch,
    gate_logits,
    plan_dispatch,
    top_k_gates,
    top_k_indices,
    weighted_sum,
)
from gmsop.ops.second_order import (
    covariance_pool,
    eigh_sqrt,
    newton_schulz_sqrt,
    second_order_pool,
    triu_size,
    triu_unvectorize,
    triu_vectorize,
)

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
