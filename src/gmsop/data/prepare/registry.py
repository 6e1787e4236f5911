"""Register the sources of packed sets by name, with what each says of itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from gmsop.utils.registry import Registry

Pack = TypeVar("Pack", bound=Callable[..., Any])


@dataclass(frozen=True)
class Source:
    """Describes a kind of images that `gmsop prepare` packs."""

    name: str
    pack: Callable[..., Any]
    """`pack(source, path, *, options, ...)` makes the set at `path` and returns the images that it skipped. Its other
    parameters are this source's own options. The annotation of `options` is the class of the options that it shares
    with other sources."""
    reads: str
    """What lies at `source`, in one line."""


SOURCES: Registry[Source] = Registry("source", "gmsop.data.prepare")


def register_source(name: str, reads: str) -> Callable[[Pack], Pack]:
    """Register the decorated function as the source `name`; see `Source` for what it must do and for `reads`.

    Raises:
        ConfigError: the name is taken.
    """

    def enter(pack: Pack) -> Pack:
        SOURCES.add(name, Source(name, pack, reads))
        return pack

    return enter
