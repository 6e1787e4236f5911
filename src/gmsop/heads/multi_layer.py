"""A head of several layers pools each by a head of its own; `gmsop.attach(..., layers=[...])` makes it."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from gmsop.errors import ConfigError
from gmsop.heads.registry import HEADS, register_head
from gmsop.nn import MultiLayerPool


def multi_layer(in_channels: Sequence[int], parts: Sequence[Mapping[str, Any]] | None = None) -> nn.Module:
    """Build `MultiLayerPool`.

    Args:
        in_channels: channels of each layer.
        parts: for each layer its head, {"head": name, **options}; with "batch_norm", whether BatchNorm follows it,
            which is else the head's own affair.
    """
    if isinstance(in_channels, int) or parts is None or len(parts) != len(in_channels):
        raise ConfigError("multi_layer needs a backbone with layers, and one part for each: gmsop.attach makes them")
    pools, normed = [], []
    for channels, part in zip(in_channels, parts, strict=True):
        options = dict(part)
        head = HEADS[options.pop("head")]
        is_normed = options.pop("batch_norm", head.batch_norm)
        pools.append(head.build(channels, **options))
        normed.append(bool(is_normed))
    return MultiLayerPool(pools, normed)


register_head(
    "multi_layer",
    multi_layer,
    help="several layers, each pooled by its own head, beside each other",
    of_layers=True,
)
