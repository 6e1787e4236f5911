"""Parametric SR-SOP: one second-order component, learnt convolutions before the covariance, without a gate."""

from gmsop.heads.registry import register_head
from gmsop.nn import ParametricSOP

register_head(
    "parametric_sop",
    ParametricSOP,
    help="one parametric second-order component, no gate",
    keep_resolution=True,
    batch_norm=True,
    drop_rate=0.2,
)
