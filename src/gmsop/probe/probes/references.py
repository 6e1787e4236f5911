"""Poolings that timm has, trained on the same features: what one would try instead of second order.

Timm's ML-Decoder is not among them: its layers do not run in the decoder of PyTorch 2.14.
"""

from collections.abc import Callable
from functools import partial

from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.other_pool import LsePlus2d, SimPool2d
from torch import Tensor, nn

from gmsop.probe.features import Features
from gmsop.probe.registry import register_probe
from gmsop.probe.training import SETTINGS, run_trained


class _Tokens(nn.Module):
    """Give a module the positions of a map as tokens (B, M, C)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(2).transpose(1, 2))


def _heads_for(channels: int) -> int:
    return next(heads for heads in (8, 4, 2, 1) if channels % heads == 0)


POOLS: dict[str, Callable[[int], nn.Module]] = {
    "attention_pool_latent": lambda channels: _Tokens(
        AttentionPoolLatent(channels, num_heads=_heads_for(channels), mlp_ratio=1.0)
    ),
    "sim_pool": SimPool2d,
    "lse_plus": lambda channels: LsePlus2d(),
}


def make_pool(features: Features, layer: str, batch_norm: bool, name: str) -> nn.Module:
    """Build one of `POOLS` with a linear classifier; all keep the number of channels."""
    channels = features.channels(layer)
    norm = nn.BatchNorm1d(channels) if batch_norm else nn.Identity()
    module = nn.Sequential(POOLS[name](channels), norm, nn.Linear(channels, len(features.class_names)))
    module.head_size = channels  # type: ignore[assignment]
    return module


for _name in POOLS:
    register_probe(
        _name,
        partial(run_trained, make=partial(make_pool, name=_name), settings=SETTINGS),
        order=0,
        budget=len(SETTINGS),
        help=f"trained: timm's {_name.replace('_', ' ')} and a linear classifier",
    )
