"""GM-SOP is the gated mixture of second-order components, the paper's method."""

from gmsop.heads.registry import register_head
from gmsop.heads.widths import chosen, component_widths, gate_widths
from gmsop.nn import GatedMixture

register_head(
    "gm_sop",
    GatedMixture.second_order,
    help="gated mixture: the best few of several second-order poolings (GM-SOP)",
    keep_resolution=True,
    batch_norm=True,
    drop_rate=0.2,
    widths=lambda channels: {**component_widths(channels), **gate_widths(channels)},
    complete=chosen,
    label="gm_sop_{num_components}_{top_k}",
)
