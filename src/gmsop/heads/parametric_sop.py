"""Parametric SR-SOP is one second-order component without a gate: learnt convolutions before the covariance."""

from gmsop.heads.registry import register_head
from gmsop.heads.widths import component_widths
from gmsop.nn import ParametricSOP

register_head(
    "parametric_sop",
    ParametricSOP,
    help="one parametric second-order component, no gate",
    keep_resolution=True,
    batch_norm=True,
    drop_rate=0.2,
    widths=component_widths,
)
