"""Read pickles of other people's data: arrays, lists, dicts, strings and numbers, but nothing that could run.

A pickle names functions and calls them with arguments of its own. Here each name that a pickle of arrays needs stands
for a function of this file, which makes only plain arrays of numbers, of exactly the bytes that the file
holds. NumPy's own functions are not within its reach: given a data type of their own making, they take bytes of the
file for addresses.
"""

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from gmsop.errors import DataError
from gmsop.utils.text import printable


def load_arrays(file: BinaryIO, name: str, size: int) -> Any:
    """Unpickle `file`, of `size` bytes; errors call it `name`.

    Raises:
        DataError: it is truncated or no pickle; it names anything that arrays, lists and dicts do not need, of which
            nothing is run; or an array is not of plain numbers.
    """
    try:
        with _budget(size):
            return _Unpickler(file, encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    except (MemoryError, KeyboardInterrupt, OSError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{name}: truncated or not a pickle ({type(error).__name__}: {error})") from error


_left: ContextVar[list[float]] = ContextVar("bytes that a pickle may still make")


@contextmanager
def _budget(size: int) -> Iterator[None]:
    """Bound what a pickle's calls may make in all: one text that is called for a thousand times is no data."""
    token = _left.set([ROOM + GROWTH * size])
    try:
        yield
    finally:
        _left.reset(token)


def _spend(size: int) -> None:
    left = _left.get()
    left[0] -= size
    if left[0] < 0:
        raise DataError("makes far more of its content than it holds")


ROOM, GROWTH = 2**26, 4
"""Bytes that the calls of a pickle may make: so many, and so many times the file's own size."""
MOST_KEYS = 1000
"""Entries of a dict. A batch has four."""


class _Array(np.ndarray[Any, Any]):
    """An array that is filled when its state is known, as pickles do it in two steps."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        array = _from_bytes(data, dtype, shape, "F" if fortran else "C")
        super().__setstate__((1, array.shape, array.dtype, bool(fortran), array.tobytes("A")))  # type: ignore[arg-type]


class _Dtype:
    """A data type as a pickle describes it. It becomes one of NumPy's only when all of it is known to be plain."""

    def __init__(self, code: Any, *flags: Any) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: Any) -> None:
        version, order, *rest = state
        if version not in (3, 4) or order not in ("<", ">", "|", "=") or tuple(rest[:3]) != (None, None, None):
            raise DataError("an array has a data type with fields or flags of its own; only plain numbers are read")
        if tuple(rest[3:]) not in ((-1, -1, 0), (-1, -1, 0, None)):
            raise DataError("an array has a data type with sizes or flags of its own; only plain numbers are read")
        self.order = order

    def plain(self) -> np.dtype[Any]:
        """Return NumPy's data type.

        Raises:
            DataError: it is not of plain numbers.
        """
        if not isinstance(self.code, str) or self.code not in _CODES:
            raise DataError(f"an array of type {str(self.code)[:20]!r}; only plain numbers are read")
        return np.dtype(f"{self.order}{self.code}")


_CODES = frozenset(f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8)) - {"f1"}


class _Function:
    """A function that a pickle can call and not change."""

    __slots__ = ("_run",)

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run

    def __call__(self, *args: Any) -> Any:
        return self._run(*args)

    def __setstate__(self, state: Any) -> None:
        raise DataError("tries to change a function; it was not run")


def _from_bytes(data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    """Return an array of exactly the given bytes."""
    if not isinstance(dtype, _Dtype) or order not in ("C", "F"):
        raise DataError("an array without a plain data type")
    _spend(len(data) if isinstance(data, str | bytes | bytearray) else 0)
    content = data.encode("latin1") if isinstance(data, str) else data  # Python 2 wrote bytes as text
    if not isinstance(content, bytes | bytearray) or not isinstance(shape, tuple):
        raise DataError("an array of objects; only plain numbers are read")
    if len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise DataError(f"an array of shape {str(shape)[:60]} in {len(content)} bytes")
    plain = dtype.plain()
    if math.prod(shape) * plain.itemsize != len(content):
        raise DataError(f"an array of shape {str(shape)[:60]} and type {plain} in {len(content)} bytes")
    array: NDArray[Any] = np.frombuffer(content, plain).reshape(shape, order=order)
    return array


def _empty(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _NDARRAY:
        raise DataError("an array of a type of its own")
    return np.empty(0, np.uint8).view(_Array)


def _scalar(dtype: Any, data: Any) -> Any:
    return _from_bytes(data, dtype, (), "C")[()]


def _bytes(text: Any, encoding: Any) -> bytes:
    """Return the bytes that protocols before version 3 spell as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise DataError("bytes in a spelling of their own")
    _spend(len(text))
    return text.encode("latin1")


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    if not isinstance(items, list | tuple) or len(items) > MOST_KEYS:
        raise DataError("a dict of other than a few entries")
    _spend(200 * len(items))
    return OrderedDict(items)


_NDARRAY = object()
"""What a pickle gets for NumPy's array type, which it only passes on."""
_CORES = ("numpy.core", "numpy._core")  # NumPy 1 and 2 use different names
_MEANT: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Function(_Dtype),
    ("_codecs", "encode"): _Function(_bytes),
    ("collections", "OrderedDict"): _Function(_ordered),
    ("__builtin__", "bytes"): _Function(lambda: b""),  # so those protocols spell bytes of which there are none
    **{(f"{core}.multiarray", "_reconstruct"): _Function(_empty) for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): _Function(_scalar) for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): _Function(_from_bytes) for core in _CORES},
}
"""What stands for each name that a pickle of arrays needs."""


class _Unpickler(pickle._Unpickler):
    """The unpickler in Python, not that in C, which makes a table as long as the largest number that the file names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _MEANT:
            shown = printable(f"{module}.{name}")[:200]
            raise DataError(f"holds a reference to {shown}, which data has no use for; it was not run")
        return _MEANT[module, name]

    stack: list[Any]

    def load_setitems(self) -> None:
        if len(self.stack) > 2 * MOST_KEYS:
            raise DataError("a dict of more than a few entries")
        super().load_setitems()  # type: ignore[misc]
        if isinstance(self.stack[-1], dict) and len(self.stack[-1]) > MOST_KEYS:
            raise DataError("a dict of more than a few entries")

    def load_setitem(self) -> None:
        if isinstance(self.stack[-3], dict) and len(self.stack[-3]) >= MOST_KEYS:
            raise DataError("a dict of more than a few entries")
        super().load_setitem()  # type: ignore[misc]

    def load_dict(self) -> None:
        if len(self.stack) > 2 * MOST_KEYS:
            raise DataError("a dict of more than a few entries")
        super().load_dict()  # type: ignore[misc]

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.SETITEMS[0]: load_setitems,
        pickle.SETITEM[0]: load_setitem,
        pickle.DICT[0]: load_dict,
    }

    def persistent_load(self, pid: Any) -> Any:
        raise DataError("refers to objects outside the file")
