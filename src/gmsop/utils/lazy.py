"""Import a package's names only when they are first used, so that nobody waits for what is not needed."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the functions `__getattr__` and `__dir__` of a package.

    Args:
        places: says where each name is: "package.module" itself, or "package.module:attribute".
    """

    def look_up(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = places[name].partition(":")
        found = import_module(module)
        return getattr(found, attribute) if attribute else found

    return look_up, lambda: sorted({*vars(import_module(package)), *places})
