from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pytest

from gmsop.errors import ConfigError
from gmsop.utils.options import NonNegativeInt, Option, PositiveFloat, PositiveInt, Range, Share, in_words, options_of


class Layer:
    def __init__(self, channels: int, width: PositiveInt = 3, root: Literal["exact", "log"] = "exact") -> None:
        """A class whose options stand in its signature."""


def test_options_are_those_of_the_signature():
    found = options_of(Layer)
    assert list(found) == ["width", "root"]
    assert (found["width"].type, found["width"].default) == (PositiveInt, 3)
    assert list(options_of(Layer, skip=("root",))) == ["width"]


GOOD: list[tuple[Any, list[Any]]] = [
    (PositiveInt, [1, 10**6]),
    (NonNegativeInt, [0]),
    (PositiveInt | None, [None, 4]),
    (PositiveFloat, [1, 1e-9]),
    (Share, [0, 0.999]),
    (Annotated[float, Range(above=0, most=1)], [1, 1e-3]),
    (bool, [True, False]),
    (str, ["x", ""]),
    (float, [-1, 2.5]),
    (Literal["a", "b"], ["a"]),
    (Sequence[PositiveInt], [(1,), [2, 3]]),
    (list[NonNegativeInt] | NonNegativeInt, [0, [0, 1]]),
    (dict[str, Any], [{}, {"a": None}]),
    (Mapping[str, int], [{"a": 1}]),
    (Any, [None, [1]]),
]
BAD: list[tuple[Any, list[Any], str]] = [
    (PositiveInt, [0, -1, 1.0, True, "1", None, float("nan")], "a positive integer"),
    (NonNegativeInt, [-1, False], "an integer at least 0"),
    (PositiveInt | None, [0, "x"], "a positive integer or none"),
    (PositiveFloat, [0, -1, True, float("inf"), float("nan"), "1"], "positive"),
    (Share, [1, -0.1, float("nan")], "at least 0 and below 1"),
    (Annotated[float, Range(above=0, most=1)], [0, 1.1], "above 0 and at most 1"),
    (bool, [0, 1, "yes"], "true or false"),
    (str, [1, None], "text"),
    (float, ["1", True, float("inf")], "a number"),
    (Literal["a", "b"], ["c", None], "one of a, b"),
    (Sequence[PositiveInt], [(), [], [0], 5, "12", [True]], "a list of at least one positive integer"),
    (dict[str, Any], [[], None, {1: 2}], "a mapping"),
]


@pytest.mark.parametrize(("kind", "values"), GOOD, ids=str)
def test_values_that_are_taken(kind, values):
    for value in values:
        Option("it", kind, None).check(value)


@pytest.mark.parametrize(("kind", "values", "words"), BAD, ids=str)
def test_values_that_are_refused(kind, values, words):
    assert in_words(kind) == words
    for value in values:
        with pytest.raises(ConfigError, match=f"^it must be {words}, got "):
            Option("it", kind, None).check(value)
