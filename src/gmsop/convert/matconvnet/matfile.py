"""MATLAB files are read as plain Python, without executing anything in them.

Structs become dicts, struct and cell arrays lists, text str, numbers arrays. Arrays keep MATLAB's axis order (HDF5,
which v7.3 files are, shows it reversed).
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from gmsop.errors import CheckpointError


def read_variable(path: str | Path, name: str) -> Any:
    """Return variable `name` of a MATLAB file, v5 to v7.3.

    Raises:
        CheckpointError: the file is missing, truncated, no MATLAB file, or has no such variable.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                names = [key for key in file if not key.startswith("#")]
                return _from_hdf5(file, file[name]) if name in names else _missing(path, name, names)
        variables = scipy.io.loadmat(path, variable_names=[name])
        if name in variables:
            return _from_v5(variables[name])
        return _missing(path, name, [row[0] for row in scipy.io.whosmat(path)])
    except CheckpointError:
        raise
    except Exception as error:  # scipy and h5py raise anything from zlib.error to KeyError on a damaged file
        raise CheckpointError(f"{path}: not a readable MATLAB file, or damaged ({error})") from error


def _missing(path: Path, name: str, names: list[str]) -> Any:
    raise CheckpointError(f"{path}: no variable {name!r}; the file holds {', '.join(names) or 'nothing'}")


def _from_v5(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    if isinstance(value, scipy.io.matlab.MatlabOpaque | scipy.io.matlab.MatlabFunction):
        return None
    if value.dtype.names:
        rows = [{name: _from_v5(row[name]) for name in value.dtype.names} for row in value.flatten("F")]
        return rows[0] if len(rows) == 1 else rows
    if value.dtype == object:
        return [_from_v5(item) for item in value.flatten("F")]
    if value.dtype.kind == "U":
        return "".join(value.flatten())
    return value


def _from_hdf5(file: h5py.File, node: h5py.Group | h5py.Dataset) -> Any:
    if isinstance(node, h5py.Group):
        # A struct array is a group of fields, each a table of references; a cell array says that it is one.
        fields = {key: node[key] for key in node}
        if fields and all(_is_table(field) for field in fields.values()):
            columns = {key: _from_hdf5(file, field) for key, field in fields.items()}
            return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return {key: _from_hdf5(file, field) for key, field in fields.items()}
    kind = _matlab_class(node)
    if node.attrs.get("MATLAB_empty", 0):
        return "" if kind == "char" else []
    if _is_reference(node):
        return [_from_hdf5(file, file[reference]) for reference in node[()].T.flatten("F")]
    array = np.asarray(node[()]).T
    if kind == "char":
        return "".join(map(chr, array.flatten()))
    return array


def _matlab_class(node: h5py.Dataset) -> str:
    kind = node.attrs.get("MATLAB_class", b"")
    return kind.decode() if isinstance(kind, bytes) else str(kind)


def _is_reference(node: Any) -> bool:
    return isinstance(node, h5py.Dataset) and h5py.check_ref_dtype(node.dtype) is not None


def _is_table(node: Any) -> bool:
    return _is_reference(node) and _matlab_class(node) != "cell"
