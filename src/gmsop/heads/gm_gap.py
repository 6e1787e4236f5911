"""GM-GAP: the gated mixture of first-order components."""

from gmsop.heads.registry import register_head
from gmsop.nn import GatedMixture

register_head(
    "gm_gap",
    GatedMixture.first_order,
    help="gated mixture: the best few of a bank of average poolings (GM-GAP)",
    batch_norm=True,
    drop_rate=0.2,
    label="gm_gap_{num_components}_{top_k}",
)
