"""Heads are registered here by name, each with what it says of itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gmsop.utils.options import Option, Share, options_of
from gmsop.utils.registry import Registry


@dataclass(frozen=True)
class Head:
    """A `Head` is one kind of pooling head. The signature of `build` gives its options: types, ranges and defaults."""

    name: str
    build: Callable[..., nn.Module]
    """`build(in_channels, **options)` gives a module, (B, C, H, W) to (B, V), with `out_features` = V."""
    help: str
    """One line: what the head computes."""
    keep_resolution: bool
    """Whether the backbone's last stage should keep its resolution: a covariance wants positions."""
    batch_norm: bool
    """Whether BatchNorm follows the pooling."""
    drop_rate: float
    """Share of dropout before the classifier, unless told otherwise."""
    label: str
    """How a model with this head is named; options in braces are filled in."""
    widths: Callable[[int], Mapping[str, Any]]
    """`widths(channels)`: options whose defaults follow the backbone's channels, where it is none of the paper's."""
    complete: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    """`complete(options)`: the options that are still None because they follow from others."""
    of_layers: bool = False
    """Whether it pools the maps of several layers, a tuple; nobody names such a head, `gmsop.attach` makes it."""
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Further named models, rows of the paper's tables: for each name the options that differ."""

    @property
    def options(self) -> dict[str, Option]:
        """Return all options by name, including the dropout before the classifier."""
        return options_of(self.build, skip=("in_channels",)) | {"drop_rate": Option("drop_rate", Share, self.drop_rate)}


HEADS: Registry[Head] = Registry("head", "gmsop.heads")


def register_head(
    name: str,
    build: Callable[..., nn.Module],
    *,
    help: str,
    keep_resolution: bool = False,
    batch_norm: bool = False,
    drop_rate: float = 0.0,
    label: str | None = None,
    widths: Callable[[int], Mapping[str, Any]] = lambda channels: {},
    complete: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda options: {},
    of_layers: bool = False,
    rows: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Register a head; see `Head` for the arguments.

    Raises:
        ConfigError: the name is taken.
    """
    named = label or name
    entry = Head(
        name, build, help, keep_resolution, batch_norm, drop_rate, named, widths, complete, of_layers, rows or {}
    )
    HEADS.add(name, entry)


def list_heads() -> list[str]:
    """Return the names of all heads that pool one map."""
    return [head.name for head in HEADS if not head.of_layers]
