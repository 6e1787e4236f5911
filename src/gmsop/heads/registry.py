"""What a head says of itself, and the register of heads by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gmsop.utils.options import Option, Share, options_of
from gmsop.utils.registry import Registry


@dataclass(frozen=True)
class Head:
    """A kind of pooling head. Its options, with types, ranges and defaults, are those of the signature of `build`."""

    name: str
    build: Callable[..., nn.Module]
    """`build(in_channels, **options)` gives a module, (B, C, H, W) to (B, V), with `out_features` = V."""
    help: str
    """One line: what the head computes."""
    keep_resolution: bool
    """Whether the backbone's last stage should keep its resolution: a covariance wants positions."""
    batch_norm: bool
    """Whether BatchNorm follows."""
    drop_rate: float
    """Share of dropout before the classifier, unless told otherwise."""
    label: str
    """How a model with this head is named; options in braces are filled in."""
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Further named models, by name the options that differ: rows of the paper's tables."""

    @property
    def options(self) -> dict[str, Option]:
        """All options by name, the dropout before the classifier included."""
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
    rows: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Enter a head: see `Head` for what it says of itself.

    Raises:
        ConfigError: the name is taken.
    """
    HEADS.add(name, Head(name, build, help, keep_resolution, batch_norm, drop_rate, label or name, rows or {}))


def list_heads() -> list[str]:
    """Names of all heads."""
    return HEADS.names()
