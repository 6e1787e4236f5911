"""The register of the tables of `gmsop benchmark`, by name."""

from collections.abc import Callable, Iterator
from typing import Any

from gmsop.speed.timing import Measurement
from gmsop.utils.registry import Registry

Table = Callable[..., Iterator[Measurement]]
"""`table(device, small)` measures row after row; the first line of its docstring is the title. Besides it may take
`models`, a pattern of names."""

TABLES: Registry[Table] = Registry("table", "gmsop.speed")

FLOAT32 = 1e-4
"""Largest relative error of a float32 candidate against float64, gradients included."""


def register_table(name: str) -> Callable[[Table], Table]:
    """Enter the decorated function as a table.

    Raises:
        ConfigError: the name is taken.
    """

    def enter(table: Any) -> Any:
        TABLES.add(name, table)
        return table

    return enter
