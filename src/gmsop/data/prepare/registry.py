"""What a source of packed sets says of itself, and the register of sources by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from gmsop.utils.registry import Registry

Pack = TypeVar("Pack", bound=Callable[..., Any])


@dataclass(frozen=True)
class Source:
    """A kind of images that `gmsop prepare` packs."""

    name: str
    pack: Callable[..., Any]
    """`pack(source, path, *, options, ...)` makes the set at `path`, and gives the images that it skipped. Whatever
    else it takes, by its signature, are this source's own options; `options` is annotated by the class of those that
    it shares with others."""
    reads: str
    """One line: what lies at `source`."""


SOURCES: Registry[Source] = Registry("source", "gmsop.data.prepare")


def register_source(name: str, reads: str) -> Callable[[Pack], Pack]:
    """Enter the decorated function as a source: see `Source` for what it says of itself.

    Raises:
        ConfigError: the name is taken.
    """

    def enter(pack: Pack) -> Pack:
        SOURCES.add(name, Source(name, pack, reads))
        return pack

    return enter
