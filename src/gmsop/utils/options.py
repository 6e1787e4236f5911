"""Read options from a signature (names, types, ranges, defaults), and check values against them.

A range stands in the annotation, `Annotated[int, Range(least=1)]`: nothing is known about an option by its name.
"""

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from gmsop.errors import ConfigError


@dataclass(frozen=True, repr=False)
class Range:
    """Holds the numbers that an option takes: from `least` or above `above`, up to `most` or below `below`."""

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf

    def holds(self, value: float) -> bool:
        """Return True if the value is in the range; NaN and infinity never are."""
        return self.least <= value <= self.most and self.above < value < self.below if math.isfinite(value) else False

    def __str__(self) -> str:
        if self == Range(above=0):
            return "positive"
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{words} {bound:.12g}" for words, bound in bounds.items() if math.isfinite(bound))

    __repr__ = __str__  # `--help` shows this


PositiveInt = Annotated[int, Range(least=1)]
NonNegativeInt = Annotated[int, Range(least=0)]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegativeFloat = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, below=1)]


class Option(NamedTuple):
    """Describes an option: its name, its type as annotated, and its default."""

    name: str
    type: Any
    default: Any

    def check(self, value: Any) -> None:
        """Refuse a value of another type, or out of range.

        Raises:
            ConfigError: the value is refused; the text names the option, what it takes and what was given.
        """
        if not is_valid(value, self.type):
            raise ConfigError(f"{self.name} must be {in_words(self.type)}, got {value!r}")


def options_of(function: Callable[..., Any], skip: Collection[str] = ()) -> dict[str, Option]:
    """Return the parameters of a function or class that have a default, except those in `skip`."""
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.default is not p.empty and p.name not in skip]
    return {p.name: Option(p.name, hints[p.name], p.default) for p in named}


def is_valid(value: Any, kind: Any) -> bool:
    """Return True if the value has this type in the sense of YAML and JSON, and is in its range.

    A whole number is a float too, a bool is no number, a list is a tuple but must not be empty, and no number is NaN or
    infinite.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Annotated:
        ranges = [extra for extra in inner[1:] if isinstance(extra, Range)]
        return is_valid(value, inner[0]) and all(each.holds(value) for each in ranges)
    if origin in (Union, UnionType):
        return any(is_valid(value, each) for each in inner)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in inner)
    if origin in (list, tuple, Sequence):
        items = [each for each in inner if each is not Ellipsis]
        return isinstance(value, list | tuple) and len(value) > 0 and all(is_valid(each, items[0]) for each in value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(
            is_valid(k, inner[0]) and is_valid(v, inner[1]) for k, v in value.items()
        )
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def in_words(kind: Any) -> str:
    """Return what an error calls a value of this type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        ranges = " and ".join(str(extra) for extra in inner[1:] if isinstance(extra, Range))
        if inner[0] is int:
            return "a positive integer" if kind == PositiveInt else f"an integer {ranges}"
        return ranges
    if origin in (Union, UnionType):
        return " or ".join(in_words(each) for each in inner)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (list, tuple, Sequence):
        return f"a list of at least one {in_words(inner[0]).removeprefix('a ')}"
    return _WORDS.get(origin or kind) or str(getattr(kind, "__name__", kind))


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    dict: "a mapping",
    Mapping: "a mapping",
    NoneType: "none",
}
