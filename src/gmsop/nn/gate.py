"""The sparsity-constrained gate decides which K of the N components an image goes to, and with what weights."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.fx
from torch import Tensor, nn

from gmsop.errors import ConfigError, GmsopWarning
from gmsop.nn.init import he_normal_
from gmsop.nn.pooling import GlobalAvgPool, ISqrtCovPool
from gmsop.ops import dense_gates, gate_logits, top_k_gates, top_k_indices

for _function in ("_noise", "dense_gates", "gate_logits", "top_k_gates", "top_k_indices"):
    torch.fx.wrap(_function)  # so symbolic tracing records it as one operation


class Routing(NamedTuple):
    """This is what the gate decided. B images, N components ("experts" elsewhere), K = top_k."""

    logits: Tensor
    """(B, N): scores of all components, noise included."""
    indices: Tensor
    """(B, K), int64: the chosen components, best first."""
    gates: Tensor
    """(B, K): their weights, positive, summing to 1."""

    @property
    def dense(self) -> Tensor:
        """Return the weights of all components, (B, N), zero where not chosen: what `gmsop.ops.balance_loss` takes."""
        return dense_gates(self.gates, self.indices, self.logits.shape[1])


def default_top_k(num_components: int) -> int:
    """Return how many components an image goes to: half, at least 2 (one score gives no gradient), at most 8."""
    return min(num_components, 8, max(2, num_components // 2))


class TopKGate(nn.Module):
    """Choose K components per image by prediction layers, pooling, two linear maps, top-K and softmax over the K.

    Each prediction layer is a 1x1 convolution, BatchNorm and ReLU. The linear maps have no bias and start as the
    constant 1 / features: at first all components tie, and ties are drawn at random in training.

    Args:
        in_channels: C of the feature map.
        num_components: N.
        top_k: K, 1 to N. With 1 of several, the gate cannot learn: its one weight is always 1. A warning says so.
        dims: channels of the prediction layers (ResNet 256, 128; WRN 512, 128; GM-GAP on WRN 512).
        second_order: pool the last prediction layer by `ISqrtCovPool` (GM-SOP) or by the mean (GM-GAP).
        num_iters: Newton-Schulz iterations of that pooling.

    Raises:
        ConfigError: top_k is below 1 or above num_components, or there is no prediction layer.

    Source: GM-SOP (NeurIPS 2018), section 3.3.
    """

    def __init__(
        self,
        in_channels: int,
        num_components: int,
        top_k: int,
        dims: Sequence[int] = (256, 128),
        second_order: bool = True,
        num_iters: int = 3,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= num_components:
            raise ConfigError(f"top_k must be between 1 and num_components = {num_components}, got {top_k}")
        if top_k == 1 < num_components:
            warnings.warn(
                "top_k=1: the softmax over one score is 1 whatever the score, so the gate gets no gradient and never "
                "learns, and the balance loss cannot either. Take top_k=2 or more",
                GmsopWarning,
                stacklevel=2,
            )
        if not dims:
            raise ConfigError("TopKGate: dims needs at least one prediction layer")
        self.in_channels = in_channels
        self.num_components = num_components
        self.top_k = top_k
        layers: list[nn.Module] = []
        channels = in_channels
        for dim in dims:
            conv = nn.Conv2d(channels, dim, 1, bias=False)
            he_normal_(conv.weight)
            layers.append(nn.Sequential(conv, nn.BatchNorm2d(dim), nn.ReLU(inplace=True)))
            channels = dim
        self.predict = nn.Sequential(*layers)
        self.pool = ISqrtCovPool(channels, num_iters=num_iters) if second_order else GlobalAvgPool(channels)
        features = self.pool.out_features
        assert features is not None
        self.weight = nn.Parameter(torch.full((num_components, features), 1 / features))
        self.noise_weight = nn.Parameter(torch.full((num_components, features), 1 / features))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Routing:
        """Route the images of (B, C, H, W). `noise`, (B,), replaces the standard normal draw of training."""
        features = self.pool(self.predict(x))
        if noise is None and self.training:
            noise = _noise(features)
        logits = gate_logits(features, self.weight, self.noise_weight, noise)
        indices = top_k_indices(logits, self.top_k, random_ties=self.training)
        return Routing(logits, indices, top_k_gates(logits, indices))

    def extra_repr(self) -> str:
        return f"num_components={self.num_components}, top_k={self.top_k}"


def _noise(features: Tensor) -> Tensor:
    """Draw one standard normal number for each image."""
    return torch.randn(features.shape[0], device=features.device, dtype=features.dtype)
