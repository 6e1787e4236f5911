"""GM-SOP: the gated mixture of second-order components, the paper's method."""

from gmsop.heads.registry import register_head
from gmsop.nn import GatedMixture

register_head(
    "gm_sop",
    GatedMixture.second_order,
    help="gated mixture: the best few of a bank of second-order poolings (GM-SOP)",
    keep_resolution=True,
    batch_norm=True,
    drop_rate=0.2,
    label="gm_sop_{num_components}_{top_k}",
)
