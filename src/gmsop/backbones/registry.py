"""Backbones are registered here by name, each with what it says of itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gmsop.backbones.protocol import BackboneModule
from gmsop.utils.options import Option, options_of
from gmsop.utils.registry import Registry


@dataclass(frozen=True)
class Backbone:
    """A `Backbone` is one kind of network before the head."""

    name: str
    build: Callable[..., BackboneModule]
    """`build(in_chans=..., keep_resolution=..., **options)`; the signature gives the options' types and ranges."""
    defaults: Mapping[str, Any]
    """Values of the options that make it this backbone."""
    input: Mapping[str, Any]
    """How images are prepared, in the terms of timm's `pretrained_cfg`; empty where the module itself says it."""
    heads: Mapping[str, Mapping[str, Any]]
    """For each head by name, the options whose values on this backbone are not the head's own defaults."""
    paper: bool
    """Whether it is one of the paper's: heads have the paper's widths on it, and `Head.rows` have models."""
    named: bool
    """Whether there are named models with it."""

    @property
    def options(self) -> dict[str, Option]:
        """Return all options by name, with their values for this backbone."""
        found = options_of(self.build, skip=("in_chans", "keep_resolution", "pretrained"))
        return {
            name: option._replace(default=self.defaults.get(name, option.default)) for name, option in found.items()
        }

    def channels(self, options: Mapping[str, Any]) -> int:
        """Return how many channels the features have with these options; only shapes are computed."""
        with torch.device("meta"):
            return self.build(**options).num_features


BACKBONES: Registry[Backbone] = Registry("backbone", "gmsop.backbones")


def register_backbone(
    name: str,
    build: Callable[..., BackboneModule],
    *,
    input: Mapping[str, Any],
    heads: Mapping[str, Mapping[str, Any]] | None = None,
    paper: bool = False,
    named: bool = True,
    **defaults: Any,
) -> None:
    """Register a backbone; see `Backbone` for the arguments. `defaults` are options of `build`.

    Raises:
        ConfigError: the name is taken.
    """
    BACKBONES.add(name, Backbone(name, build, defaults, input, heads or {}, paper, named))
