"""Read pickles of other people's data: arrays, lists, dicts, strings and numbers, but nothing that could run."""

import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

from gmsop.errors import DataError

_NUMPY = ("numpy.core", "numpy._core")  # NumPy 1 and 2 use different names
ALLOWED = frozenset(
    {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("collections", "OrderedDict")}
    | {(f"{core}.multiarray", name) for core in _NUMPY for name in ("_reconstruct", "scalar")}
    | {(f"{core}.numeric", "_frombuffer") for core in _NUMPY}
)
"""What a pickle of arrays needs to name. `_codecs.encode` is how old protocols spell bytes."""


def load_arrays(file: BinaryIO, name: str) -> Any:
    """Unpickle `file`; errors call it `name`.

    Raises:
        DataError: it is truncated or no pickle, or it names anything outside `ALLOWED`, of which nothing is run.
    """
    try:
        return _Unpickler(file, encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    except (MemoryError, KeyboardInterrupt, OSError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{name}: truncated or not a pickle ({type(error).__name__}: {error})") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in ALLOWED:
            raise DataError(f"holds a reference to {module}.{name}, which data has no use for; it was not run")
        found: Callable[..., Any] = super().find_class(module, name)
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise DataError("refers to objects outside the file")
