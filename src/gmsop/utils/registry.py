"""Named choices of one kind. Each registers itself in a file of its own, in the room of its kind."""

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Generic, TypeVar

from gmsop.errors import ConfigError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names and what they stand for. All files of the package are imported when it is first asked.

    Args:
        kind: what an entry is called in errors.
        package: where the files lie, such as "gmsop.heads".
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._entries: dict[str, T] = {}
        self._complete = self._loading = False

    def add(self, name: str, entry: T) -> None:
        """Enter a choice.

        Raises:
            ConfigError: the name is taken.
        """
        if name in self._entries:
            raise ConfigError(f"there is a {self.kind} named {name!r} already")
        self._entries[name] = entry

    def names(self) -> list[str]:
        """All names, in the order of the files."""
        self._load()
        return list(self._entries)

    def __getitem__(self, name: str) -> T:
        """The entry of that name.

        Raises:
            UnknownNameError: there is none; the text lists the nearest.
        """
        self._load()
        if name not in self._entries:
            raise UnknownNameError.of(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[T]:
        self._load()
        return iter(list(self._entries.values()))

    def _load(self) -> None:
        if self._complete:
            return
        if self._loading:  # what is asked now would be answered from half of the names
            raise ImportError(f"a file of {self.package} asks for the names of all {self.kind}s while it is imported")
        self._loading = True
        try:
            for found in pkgutil.iter_modules(import_module(self.package).__path__):
                import_module(f"{self.package}.{found.name}")
            self._complete = True
        finally:
            self._loading = False
