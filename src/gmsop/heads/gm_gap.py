"""GM-GAP is the gated mixture of first-order components."""

from gmsop.heads.registry import register_head
from gmsop.heads.widths import chosen, gate_widths
from gmsop.nn import GatedMixture

register_head(
    "gm_gap",
    GatedMixture.first_order,
    help="gated mixture: the best few of several average poolings (GM-GAP)",
    batch_norm=True,
    drop_rate=0.2,
    widths=lambda channels: {"reduced_dim": min(512, 4 * channels), **gate_widths(channels)},
    complete=chosen,
    label="gm_gap_{num_components}_{top_k}",
)
