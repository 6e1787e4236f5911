"""Pooling layers: a feature map (B, C, H, W) to one vector per image. Parametric ones are mixture components too."""

from typing import NamedTuple

import torch
import torch.fx
from torch import Tensor, nn

from gmsop.errors import ConfigError
from gmsop.nn.init import he_normal_
from gmsop.ops import second_order_pool, triu_size
from gmsop.ops.precision import like_input
from gmsop.utils.options import PositiveInt

for _function in ("second_order_pool", "like_input", "_mean", "_require_channels"):
    torch.fx.wrap(_function)  # symbolic tracing takes it as one operation


class Fusible(NamedTuple):
    """What a component computes, for a bank that computes all its components at once: see `gmsop.nn.bank`."""

    convs: tuple[nn.Module, ...]
    """1x1 convolutions without bias, one after the other, each with ReLU."""
    pool: nn.Module
    """What follows them, called on all (image, component) pairs together; without parameters, the same in all."""


class GlobalAvgPool(nn.Module):
    """First-order pooling: the mean over positions, (B, C, H, W) or (B, C, M) -> (B, C).

    Args:
        in_channels: C; only needed to know `out_features` beforehand.
    """

    def __init__(self, in_channels: int | None = None) -> None:
        super().__init__()
        self.out_features = in_channels

    def forward(self, x: Tensor) -> Tensor:
        return _mean(x)


def _mean(x: Tensor) -> Tensor:
    """Not `x.mean`: its backward pass writes the gradient out for every position, that of a sum does not. Same bits."""
    wide = torch.promote_types(x.dtype, torch.float32)  # a sum in float16 may be too large
    return (x.sum(tuple(range(2, x.dim())), dtype=wide) / x.shape[2:].numel()).to(x.dtype)


class ISqrtCovPool(nn.Module):
    """Second-order pooling: covariance, its square root, the upper triangle. (B, C, H, W) -> (B, D (D + 1) / 2).

    The paper's SR-SOP, also known as iSQRT-COV and fast MPN-COV.

    Args:
        in_channels: C; only needed with `reduced_dim`, and to know `out_features` beforehand.
        reduced_dim: first a 1x1 convolution to D channels with BatchNorm and ReLU. None: D = C.
        num_iters: Newton-Schulz iterations.

    Raises:
        ConfigError: in `forward`, features of other than `in_channels` channels.
    """

    def __init__(
        self, in_channels: int | None = None, reduced_dim: PositiveInt | None = None, num_iters: PositiveInt = 3
    ) -> None:
        super().__init__()
        self.reduce: nn.Module = nn.Identity()
        if reduced_dim is not None:
            if in_channels is None:
                raise ConfigError("ISqrtCovPool: reduced_dim needs in_channels")
            conv = nn.Conv2d(in_channels, reduced_dim, 1, bias=False)
            he_normal_(conv.weight)
            self.reduce = nn.Sequential(conv, nn.BatchNorm2d(reduced_dim), nn.ReLU(inplace=True))
        self.in_channels = in_channels
        dim = in_channels if reduced_dim is None else reduced_dim
        self.out_features = None if dim is None else triu_size(dim)
        self.num_iters = num_iters

    def forward(self, x: Tensor) -> Tensor:
        _require_channels(x, self.in_channels)
        x = self.reduce(x)
        return like_input(second_order_pool(x, self.num_iters), x)

    def extra_repr(self) -> str:
        return f"num_iters={self.num_iters}"


def _require_channels(x: Tensor, channels: int | None) -> None:
    if channels is not None and (x.dim() < 3 or x.shape[1] != channels):
        raise ConfigError(f"ISqrtCovPool: expected features (B, {channels}, H, W), got shape {tuple(x.shape)}")


class ParametricSOP(nn.Module):
    """A second-order component: 1x1 convolution, ReLU, 1x1 convolution, ReLU, `ISqrtCovPool`.

    No bias and no BatchNorm inside; the authors removed them after an ablation. (B, C, H, W) -> (B, D (D + 1) / 2).

    Args:
        in_channels: C.
        hidden_dim: channels after the first convolution (ResNet 256, WRN 512).
        reduced_dim: channels D after the second.
        num_iters: Newton-Schulz iterations.

    Source: GM-SOP (NeurIPS 2018), section 3.2, "parametric SR-SOP".
    """

    def __init__(
        self,
        in_channels: int,
        hidden_dim: PositiveInt = 256,
        reduced_dim: PositiveInt = 128,
        num_iters: PositiveInt = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, hidden_dim, 1, bias=False)
        self.conv2 = nn.Conv2d(hidden_dim, reduced_dim, 1, bias=False)
        self.pool = ISqrtCovPool(reduced_dim, num_iters=num_iters)
        self.out_features = triu_size(reduced_dim)
        he_normal_(self.conv1.weight)
        he_normal_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv2(self.conv1(x).relu()).relu())

    def fusible(self) -> Fusible | None:
        """What `forward` computes; None for a subclass with a `forward` of its own."""
        return Fusible((self.conv1, self.conv2), self.pool) if type(self).forward is ParametricSOP.forward else None


class ParametricGAP(nn.Module):
    """A first-order component: 1x1 convolution, ReLU, mean over positions. (B, C, H, W) -> (B, D).

    Alone it is the paper's "512d" and "8256d" baselines, average pooling at the length of a mixture's vector.

    Args:
        in_channels: C.
        reduced_dim: channels D after the convolution, which has no bias.

    Source: GM-SOP (NeurIPS 2018), section 4.2, the component of GM-GAP.
    """

    def __init__(self, in_channels: int, reduced_dim: PositiveInt = 512) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, reduced_dim, 1, bias=False)
        self.pool = GlobalAvgPool(reduced_dim)
        self.out_features = reduced_dim
        he_normal_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(x).relu())

    def fusible(self) -> Fusible | None:
        """What `forward` computes; None for a subclass with a `forward` of its own."""
        return Fusible((self.conv,), self.pool) if type(self).forward is ParametricGAP.forward else None
