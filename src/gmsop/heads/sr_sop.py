"""SR-SOP is second-order pooling of the backbone's own features, also known as iSQRT-COV and fast MPN-COV."""

from gmsop.heads.registry import register_head
from gmsop.nn import ISqrtCovPool

register_head(
    "sr_sop",
    ISqrtCovPool,
    help="the square root of the covariance over positions (SR-SOP, iSQRT-COV)",
    keep_resolution=True,
    widths=lambda channels: {"reduced_dim": 128 if channels > 128 else None},  # 256 in fast MPN-COV
)
