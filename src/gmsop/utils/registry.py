"""Keep named choices of one kind. Each registers itself in a file of its own, in the package of its kind."""

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Generic, TypeVar

from gmsop.errors import ConfigError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to what they stand for. All files of the package are imported when it is first asked.

    Args:
        kind: what errors call an entry.
        package: where the files lie, such as "gmsop.heads".
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._entries: dict[str, T] = {}
        self._complete = self._loading = False

    def add(self, name: str, entry: T) -> None:
        """Register an entry.

        Raises:
            ConfigError: the name is taken.
        """
        if name in self._entries:
            raise ConfigError(f"there is a {self.kind} named {name!r} already")
        self._entries[name] = entry

    def names(self) -> list[str]:
        """Return all names, in the order of the files."""
        self._load()
        return list(self._entries)

    def __getitem__(self, name: str) -> T:
        """Return the entry of that name.

        Raises:
            UnknownNameError: there is none; the text lists the nearest names.
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
        if self._loading:  # half of the names would answer what is asked now
            raise ImportError(f"a file of {self.package} asks for the names of all {self.kind}s while it is imported")
        self._loading = True
        try:
            for found in pkgutil.iter_modules(import_module(self.package).__path__):
                import_module(f"{self.package}.{found.name}")
            self._complete = True
        finally:
            self._loading = False
