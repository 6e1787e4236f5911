"""Open array files of NumPy's that anybody may have written."""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gmsop.errors import DataError


def open_array(file: Path, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return a memory map of an array of known shape and dtype.

    Raises:
        DataError: missing, no file, damaged, or another array.
    """
    if not file.is_file():
        raise DataError(f"{file}: missing" if not file.exists() else f"{file}: not a file but a pipe or a folder")
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy parses the header as Python: a wrong byte in it may raise almost anything
        raise DataError(f"{file}: missing or damaged ({error})") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{file}: an archive of arrays, expected one array")
    if array.shape != shape or array.dtype != dtype:
        raise DataError(f"{file}: expected {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")
    return array


def read_npz(file: Path, most: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of numbers in a small `.npz` file.

    Args:
        most: bytes that all of them take in memory.

    Raises:
        OSError: there is no such file, or it is closed to the user.
        DataError: damaged, or larger.
    """
    arrays: dict[str, NDArray[Any]] = {}
    if file.exists() and not file.is_file():
        raise DataError(f"{file}: not a file but a pipe or a folder")
    try:
        with zipfile.ZipFile(file) as archive:
            if (size := sum(member.file_size for member in archive.infolist())) > most:
                raise DataError(f"{file}: would take {size / 1e6:,.0f} MB, and is not read")
            for member in archive.infolist():
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise DataError(f"{file}: {member.filename} is packed by a method that is not read")
                with archive.open(member) as stream:
                    version = np.lib.format.read_magic(stream)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, fortran, dtype = read(stream)
                    content = stream.read()
                if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize != len(content):
                    raise DataError(f"{file}: {member.filename} is no array of numbers, or truncated")
                array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
                arrays[member.filename.removesuffix(".npy")] = array
    except (OSError, DataError):
        raise
    except Exception as error:  # archives and headers raise almost anything
        raise DataError(f"{file}: damaged ({type(error).__name__}: {error})") from error
    return arrays
