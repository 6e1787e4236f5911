"""These operators make up the mixture: the gate's scores and choice, the routing, and the components' convolutions."""

from gmsop.ops.mixture.component_conv import component_conv
from gmsop.ops.mixture.gating import balance_loss, dense_gates, gate_logits, top_k_gates, top_k_indices
from gmsop.ops.mixture.routing import Plan, combine, dispatch, plan_dispatch, weighted_sum

__all__ = [
    "Plan",
    "balance_loss",
    "combine",
    "component_conv",
    "dense_gates",
    "dispatch",
    "gate_logits",
    "plan_dispatch",
    "top_k_gates",
    "top_k_indices",
    "weighted_sum",
]
