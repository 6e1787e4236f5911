"""GAP is global average pooling, the first-order baseline; with `reduced_dim`, after a 1x1 convolution."""

from torch import nn

from gmsop.heads.registry import register_head
from gmsop.nn import GlobalAvgPool, ParametricGAP
from gmsop.utils.options import PositiveInt


def gap(in_channels: int, reduced_dim: PositiveInt | None = None) -> nn.Module:
    """Build average pooling; with `reduced_dim`, after a 1x1 convolution: the paper's "512d" and "8256d"."""
    return GlobalAvgPool(in_channels) if reduced_dim is None else ParametricGAP(in_channels, reduced_dim)


register_head(
    "gap",
    gap,
    help="the mean over positions (GAP)",
    rows={"gap_512": {"reduced_dim": 512}, "gap_8256": {"reduced_dim": 8256}},
)
