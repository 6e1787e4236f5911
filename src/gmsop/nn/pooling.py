"""Pooling layers turn a feature map (B, C, H, W) into a vector per image. Parametric ones can be components."""

from collections.abc import Iterable
from typing import Annotated, Literal, NamedTuple, cast, get_args

import torch
import torch.fx
from torch import Tensor, nn

from gmsop.errors import ConfigError
from gmsop.nn.init import he_normal_
from gmsop.nn.moments import Moments
from gmsop.ops import covariance_pool, eigh_sqrt, second_order_pool, triu_size, triu_vectorize
from gmsop.ops.precision import like_input
from gmsop.utils.options import Option, PositiveInt, Range

Root = Literal["newton_schulz", "eigh", "power", "none"]
Init = Literal["he", "pca"]
Iterations = Annotated[int, Range(least=1, most=100)]
"""Of Newton-Schulz. It converges within 20; the bound keeps a file from asking for years."""

for _function in (
    "second_order_pool",
    "covariance_pool",
    "eigh_sqrt",
    "triu_vectorize",
    "like_input",
    "_mean",
    "in_dtype_of",
    "require_map",
):
    torch.fx.wrap(_function)  # so symbolic tracing records it as one operation


class Fusible(NamedTuple):
    """A component says here what it computes, so that a bank can run all at once: see `gmsop.nn.bank`."""

    convs: tuple[nn.Module, ...]
    """1x1 convolutions without bias, one after the other, each with ReLU."""
    pool: nn.Module
    """What follows them, called on all pairs together; it has no parameters and is the same in all components."""


class GlobalAvgPool(nn.Module):
    """Pool by the mean over positions (first-order pooling), (B, C, H, W) -> (B, C).

    Args:
        in_channels: C; only needed to know `out_features` beforehand, and to refuse features of another number.

    Raises:
        ConfigError: in `forward`, something else than a map (B, C, H, W).
    """

    def __init__(self, in_channels: int | None = None) -> None:
        super().__init__()
        self.in_channels = self.out_features = in_channels

    def forward(self, x: Tensor) -> Tensor:
        require_map("GlobalAvgPool", x, self.in_channels)
        return _mean(x)


def _mean(x: Tensor) -> Tensor:
    """Return the mean over positions, with the same bits as `x.mean` but a cheaper backward pass.

    That of `x.mean` writes the gradient out for every position, that of a sum does not.
    """
    wide = torch.promote_types(x.dtype, torch.float32)  # a sum in float16 may be too large
    return (x.sum((2, 3), dtype=wide) / (x.shape[2] * x.shape[3])).to(x.dtype)


class ISqrtCovPool(nn.Module):
    """Pool by covariance, its square root and the upper triangle, (B, C, H, W) -> (B, D (D + 1) / 2).

    This second-order pooling is the paper's SR-SOP, also known as iSQRT-COV and fast MPN-COV. With another `root`, its
    near relatives.

    Args:
        in_channels: C; only needed with `reduced_dim`, to know `out_features` beforehand, and to refuse features of
            another number of channels.
        reduced_dim: channels D of a 1x1 convolution before the pooling, with BatchNorm and ReLU. None: it is left out.
        num_iters: Newton-Schulz iterations.
        init: "he": the reduction is learnt from random weights. "pca": it is a projection, without BatchNorm and ReLU,
            orthogonal at random until `start_from` sets it to the principal components of features.
        root: "newton_schulz"; "eigh", the exact root by eigendecomposition (MPN-COV); "power", the covariance's
            elements, each to the power of one half, with its sign; "none", the covariance as it is.

    Raises:
        ConfigError: `reduced_dim` without `in_channels`; in `forward`, something else than a map (B, C, H, W), or a
            map of a single position, whose covariance is zero whatever is in it.
    """

    def __init__(
        self,
        in_channels: int | None = None,
        reduced_dim: PositiveInt | None = None,
        num_iters: Iterations = 3,
        init: Init = "he",
        root: Root = "newton_schulz",
    ) -> None:
        super().__init__()
        if root not in get_args(Root) or init not in get_args(Init):
            raise ConfigError(f"ISqrtCovPool: no root {root!r} or init {init!r}")
        Option("num_iters", Iterations, 3).check(num_iters)
        for name, channels in (("in_channels", in_channels), ("reduced_dim", reduced_dim)):
            Option(name, PositiveInt | None, None).check(channels)
        self.init, self.root = init, root
        self.reduce: nn.Module = nn.Identity()
        if reduced_dim is not None:
            if in_channels is None:
                raise ConfigError("ISqrtCovPool: reduced_dim needs in_channels")
            conv = nn.Conv2d(in_channels, reduced_dim, 1, bias=False)
            if init == "pca":
                if reduced_dim > in_channels:
                    raise ConfigError(
                        f"ISqrtCovPool: {in_channels} channels have no {reduced_dim} principal components"
                    )
                if not conv.weight.is_meta:
                    nn.init.orthogonal_(conv.weight)
                self.reduce = nn.Sequential(conv)
            else:
                he_normal_(conv.weight)
                self.reduce = nn.Sequential(conv, nn.BatchNorm2d(reduced_dim), nn.ReLU(inplace=True))
        elif init == "pca":
            raise ConfigError("ISqrtCovPool: init='pca' is of the reduction, it needs reduced_dim")
        self.in_channels = in_channels
        dim = in_channels if reduced_dim is None else reduced_dim
        self.out_features = None if dim is None else triu_size(dim)
        self.num_iters = num_iters

    def forward(self, x: Tensor) -> Tensor:
        require_map("ISqrtCovPool", x, self.in_channels, at_least=2)
        if isinstance(self.reduce, nn.Sequential):
            x = self.reduce(in_dtype_of(cast(Tensor, self.reduce[0].weight), x))
        else:
            x = self.reduce(x)
        if self.root == "newton_schulz":
            return like_input(second_order_pool(x, self.num_iters), x)
        cov = covariance_pool(x)
        if self.root == "eigh":
            cov = eigh_sqrt(cov)
        elif self.root == "power":
            cov = cov.sign() * (cov.abs() + EPS).sqrt()  # the root's own slope is infinite at zero
        return like_input(triu_vectorize(cov), x)

    @torch.no_grad()
    def start_from(self, maps: Iterable[Tensor]) -> None:
        """Set the reduction of `init="pca"` to the principal components of features, over all their positions.

        Args:
            maps: batches (B, C, H, W); they are gone through once.

        Raises:
            ConfigError: the layer has no such reduction; there are no more positions than components.
        """
        if self.init != "pca":
            raise ConfigError("ISqrtCovPool: start_from needs reduced_dim and init='pca'")
        weight = cast(Tensor, self.reduce[0].weight)  # type: ignore[index]
        weight.copy_(Moments.of(maps).components(weight.shape[0]).T[:, :, None, None])

    def extra_repr(self) -> str:
        return f"num_iters={self.num_iters}" if self.root == "newton_schulz" else f"root={self.root}"


EPS = 1e-8
"""What is added to a covariance's magnitude before `root="power"`."""


def require_map(name: str, x: Tensor, channels: int | None = None, at_least: int = 1) -> None:
    """Refuse what is no map of features (B, C, H, W): another layout would be pooled over the wrong axes in silence.

    Args:
        name: of the layer, for the error.
        channels: C, where it is known.
        at_least: so many positions.

    Raises:
        ConfigError: another number of axes or channels, no floating-point numbers, or too few positions.
    """
    shape = tuple(x.shape)
    if x.dim() != 4:
        tokens = "; tokens (B, N, C) are x.transpose(1, 2).unsqueeze(3)" if x.dim() == 3 else ""
        raise ConfigError(f"{name}: expected a map of features (B, C, H, W), got shape {shape}{tokens}")
    if not x.is_floating_point():
        raise ConfigError(f"{name}: expected floating-point features, got {x.dtype}")
    if channels is not None and x.shape[1] != channels:
        last = "; channels come second, not last: x.permute(0, 3, 1, 2)" if x.shape[3] == channels else ""
        raise ConfigError(f"{name}: expected features (B, {channels}, H, W), got shape {shape}{last}")
    if at_least > 0 and (x.shape[2] == 0 or x.shape[3] == 0):
        raise ConfigError(f"{name}: the map {shape} has no positions")
    if x.shape[2] * x.shape[3] < at_least:
        raise ConfigError(
            f"{name}: the map {shape} has {x.shape[2] * x.shape[3]} position, of which there is no covariance: give "
            "larger images, or a backbone that keeps more positions (output_stride=16)"
        )


def in_dtype_of(weight: Tensor, x: Tensor) -> Tensor:
    """Cast features of half precision to the dtype of the weights that follow, unless autocast does the reverse."""
    half = x.dtype in (torch.float16, torch.bfloat16) and weight.dtype != x.dtype
    return x.to(weight.dtype) if half and not (not x.is_meta and torch.is_autocast_enabled(x.device.type)) else x


class ParametricSOP(nn.Module):
    """A second-order component applies 1x1 convolution, ReLU, 1x1 convolution, ReLU and `ISqrtCovPool`.

    It has no bias and no BatchNorm; the authors removed them after an ablation. (B, C, H, W) -> (B, D (D + 1) / 2).

    Args:
        in_channels: C.
        hidden_dim: channels after the first convolution (ResNet 256, WRN 512).
        reduced_dim: channels D after the second.
        num_iters: Newton-Schulz iterations.

    Raises:
        ConfigError: in `forward`, something else than a map (B, C, H, W) of at least two positions.

    Source: GM-SOP (NeurIPS 2018), section 3.2, "parametric SR-SOP".
    """

    def __init__(
        self,
        in_channels: int,
        hidden_dim: PositiveInt = 256,
        reduced_dim: PositiveInt = 128,
        num_iters: Iterations = 3,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, hidden_dim, 1, bias=False)
        self.conv2 = nn.Conv2d(hidden_dim, reduced_dim, 1, bias=False)
        self.pool = ISqrtCovPool(reduced_dim, num_iters=num_iters)
        self.out_features = triu_size(reduced_dim)
        he_normal_(self.conv1.weight)
        he_normal_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        require_map("ParametricSOP", x, self.in_channels, at_least=2)
        x = in_dtype_of(self.conv1.weight, x)
        return self.pool(self.conv2(self.conv1(x).relu()).relu())

    def fusible(self) -> Fusible | None:
        """Return what `forward` computes; None for a subclass with a `forward` of its own."""
        return Fusible((self.conv1, self.conv2), self.pool) if type(self).forward is ParametricSOP.forward else None


class ParametricGAP(nn.Module):
    """A first-order component applies 1x1 convolution, ReLU and the mean over positions, (B, C, H, W) -> (B, D).

    Outside a mixture it is the paper's "512d" and "8256d" baselines: average pooling to vectors as long as a mixture's.

    Args:
        in_channels: C.
        reduced_dim: channels D after the convolution, which has no bias.

    Raises:
        ConfigError: in `forward`, something else than a map (B, C, H, W).

    Source: GM-SOP (NeurIPS 2018), section 4.2, the component of GM-GAP.
    """

    def __init__(self, in_channels: int, reduced_dim: PositiveInt = 512) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv = nn.Conv2d(in_channels, reduced_dim, 1, bias=False)
        self.pool = GlobalAvgPool(reduced_dim)
        self.out_features = reduced_dim
        he_normal_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        require_map("ParametricGAP", x, self.in_channels)
        return self.pool(self.conv(in_dtype_of(self.conv.weight, x)).relu())

    def fusible(self) -> Fusible | None:
        """Return what `forward` computes; None for a subclass with a `forward` of its own."""
        return Fusible((self.conv,), self.pool) if type(self).forward is ParametricGAP.forward else None
