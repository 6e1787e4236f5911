"""Register the tables of `gmsop benchmark` by name."""

from collections.abc import Callable, Iterator
from typing import Any

from gmsop.speed.timing import Measurement
from gmsop.utils.registry import Registry

Table = Callable[..., Iterator[Measurement]]
"""`table(device, small)` yields row after row; the first line of its docstring is printed as the title. It may take
`models`, too: a pattern of names."""

TABLES: Registry[Table] = Registry("table", "gmsop.speed")

FLOAT32 = 1e-4
"""Largest relative error of a float32 candidate against float64, gradients included."""


def register_table(name: str) -> Callable[[Table], Table]:
    """Register the decorated function as the table `name`.

    Raises:
        ConfigError: the name is taken.
    """

    def enter(table: Any) -> Any:
        TABLES.add(name, table)
        return table

    return enter
