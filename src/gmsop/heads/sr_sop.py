"""SR-SOP is second-order pooling of the backbone's own features, also known as iSQRT-COV and fast MPN-COV."""

from collections.abc import Sequence

from torch import Tensor, nn

from gmsop.heads.registry import register_head
from gmsop.nn import ISqrtCovPool
from gmsop.nn.init import he_normal_
from gmsop.nn.pooling import Init, Iterations, Root
from gmsop.utils.options import PositiveInt, Share


def sr_sop(
    in_channels: int,
    reduced_dim: PositiveInt | None = None,
    num_iters: Iterations = 3,
    init: Init = "he",
    root: Root = "newton_schulz",
    fc_dims: Sequence[PositiveInt] | None = None,
    fc_drop_rate: Share = 0.0,
) -> nn.Module:
    """Build `ISqrtCovPool`; with `fc_dims`, followed by hidden linear layers of these widths, as VGG's classifier has.

    Args:
        fc_drop_rate: share of dropout between the hidden layers; before the classifier it is the model's `drop_rate`.
    """
    pool = ISqrtCovPool(in_channels, reduced_dim, num_iters, init, root)
    return pool if fc_dims is None else HiddenLayers(pool, fc_dims, fc_drop_rate)


class HiddenLayers(nn.Module):
    """Pool, then apply linear layers, each with ReLU, (B, C, H, W) -> (B, last of `dims`); dropout is between them."""

    def __init__(self, pool: ISqrtCovPool, dims: Sequence[int], drop_rate: float = 0.0) -> None:
        super().__init__()
        self.pool = pool
        assert pool.out_features is not None
        layers: list[nn.Module] = []
        width = pool.out_features
        for dim in dims:
            linear = nn.Linear(width, dim)
            he_normal_(linear.weight)
            nn.init.zeros_(linear.bias)
            if layers:
                layers.append(nn.Dropout(drop_rate))
            layers += [linear, nn.ReLU(inplace=True)]
            width = dim
        self.layers = nn.Sequential(*layers)
        self.out_features = width

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.pool(x))


register_head(
    "sr_sop",
    sr_sop,
    help="the square root of the covariance over positions (SR-SOP, iSQRT-COV)",
    keep_resolution=True,
    widths=lambda channels: {"reduced_dim": 128 if channels > 128 else None},  # 256 in fast MPN-COV
)
