"""What a backbone says of itself, and the register of backbones by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from gmsop.utils.options import Option, options_of
from gmsop.utils.registry import Registry


@dataclass(frozen=True)
class Backbone:
    """A kind of network before the head.

    What `build` gives takes images (B, in_chans, H, W) and returns features (B, C, h, w). It has `num_features`, C;
    `in_chans`; `reduction`, H / h; and `stem_parameters()`, the filters that see the image itself.
    """

    name: str
    build: Callable[..., nn.Module]
    """`build(in_chans=..., keep_resolution=..., **options)`; the signature gives the options' types and ranges."""
    defaults: Mapping[str, Any]
    """Values of the options that make it this backbone."""
    input: Mapping[str, Any]
    """How images are prepared, in the terms of timm's `pretrained_cfg`."""
    heads: Mapping[str, Mapping[str, Any]]
    """By head, the options whose values on this backbone are not the head's own defaults."""
    rows: bool
    """Whether the heads' further rows of the paper's tables have models with it."""

    @property
    def options(self) -> dict[str, Option]:
        """All options by name, with their values of this backbone."""
        found = options_of(self.build, skip=("in_chans", "keep_resolution"))
        return {
            name: option._replace(default=self.defaults.get(name, option.default)) for name, option in found.items()
        }


BACKBONES: Registry[Backbone] = Registry("backbone", "gmsop.backbones")


def register_backbone(
    name: str,
    build: Callable[..., nn.Module],
    *,
    input: Mapping[str, Any],
    heads: Mapping[str, Mapping[str, Any]] | None = None,
    rows: bool = False,
    **defaults: Any,
) -> None:
    """Enter a backbone: see `Backbone` for what it says of itself; `defaults` are options of `build`.

    Raises:
        ConfigError: the name is taken.
    """
    BACKBONES.add(name, Backbone(name, build, defaults, input, heads or {}, rows))
