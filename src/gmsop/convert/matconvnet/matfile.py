"""MATLAB files are read as plain Python, without executing anything in them.

Structs become dicts, struct and cell arrays lists, text str, numbers arrays. Arrays keep MATLAB's axis order (HDF5,
which v7.3 files are, shows it reversed).
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from gmsop.errors import CheckpointError, DataError
from gmsop.utils.matlab_files import DEEPEST, require_sound_hdf5, require_sound_matlab5


def read_struct(path: str | Path, name: str, fields: tuple[str, ...]) -> Any:
    """Return the struct `name` of a MATLAB file, v5 to v7.3.

    Args:
        fields: what tells the struct where the file holds not the struct but its fields, as `save(file, '-struct',
            'net')` leaves it.

    Raises:
        CheckpointError: the file is missing, truncated, no MATLAB file, or has neither; or it is deeper or larger than
            a file of its size can be, or has parts elsewhere.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                require_sound_hdf5(file, path)
                names = [key for key in file if not key.startswith("#")]
                reader = _Hdf5(file)
                if name in names:
                    return reader.read(file[name])
                if set(fields) <= set(names):
                    return {key: reader.read(file[key]) for key in names}
                return _missing(path, name, names)
        require_sound_matlab5(path)
        names = [row[0] for row in scipy.io.whosmat(path)]
        if name in names:
            return _from_v5(scipy.io.loadmat(path, variable_names=[name])[name])
        if set(fields) <= set(names):
            found = scipy.io.loadmat(path, variable_names=names)
            return {key: _from_v5(found[key]) for key in names}
        return _missing(path, name, names)
    except CheckpointError:
        raise
    except DataError as error:
        raise CheckpointError(str(error)) from error
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


class _Hdf5:
    """Reads the structs of a file. What two references lead to is read once."""

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self.known: dict[int, Any] = {}
        self.depth = 0

    def read(self, node: h5py.Group | h5py.Dataset) -> Any:
        """Return a struct, cell array, text or array as plain Python.

        Raises:
            CheckpointError: it refers to itself.
        """
        place = h5py.h5o.get_info(node.id).addr
        if place in self.known:
            if self.known[place] is _READING:
                raise CheckpointError(f"{self.file.filename}: {node.name} refers to itself")
            return self.known[place]
        if self.depth > DEEPEST:
            raise CheckpointError(f"{self.file.filename}: structs or cells are more than {DEEPEST} deep in one another")
        self.known[place] = _READING
        self.depth += 1
        self.known[place] = self._read(node)
        self.depth -= 1
        return self.known[place]

    def _read(self, node: h5py.Group | h5py.Dataset) -> Any:
        if isinstance(node, h5py.Group):
            # A struct array is a group of fields, each a table of references; a cell array says that it is one.
            fields = {key: node[key] for key in node}
            if fields and all(_is_table(field) for field in fields.values()):
                columns = {key: self.read(field) for key, field in fields.items()}
                return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            return {key: self.read(field) for key, field in fields.items()}
        kind = _matlab_class(node)
        if node.attrs.get("MATLAB_empty", 0):
            return "" if kind == "char" else []
        if _is_reference(node):
            return [self.read(self.file[reference]) for reference in node[()].T.flatten("F")]
        array = np.asarray(node[()]).T
        if kind == "char":
            return "".join(map(chr, array.flatten()))
        return array


_READING = object()
"""Stands for what is being read."""


def _matlab_class(node: h5py.Dataset) -> str:
    kind = node.attrs.get("MATLAB_class", b"")
    return kind.decode() if isinstance(kind, bytes) else str(kind)


def _is_reference(node: Any) -> bool:
    return isinstance(node, h5py.Dataset) and h5py.check_ref_dtype(node.dtype) is not None


def _is_table(node: Any) -> bool:
    return _is_reference(node) and _matlab_class(node) != "cell"
