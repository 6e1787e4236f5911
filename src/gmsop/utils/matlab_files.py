"""Check MATLAB's files before they are read: what they declare, how deep they are, where their bytes come from.

SciPy and h5py believe what a file says. A file of a few kilobytes can make them take gigabytes, overflow the stack,
give zeros for data that is not there, or read any other file of the user.
"""

import math
import mmap
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gmsop.errors import DataError

DEEPEST = 64
"""Structs and cells within one another. MatConvNet's networks have 5."""
ROOM = 64 * 2**20
"""Bytes that the content of any file may take in memory."""
GROWTH = 100
"""Above that: how many times larger than the file its content may be. Weights and images hardly shrink."""
_MATRIX, _COMPRESSED = 14, 15
_KINDS = frozenset({*range(1, 8), 9, 12, 13, _MATRIX, 16, 17, 18})
"""Kinds of elements that MATLAB writes: numbers from int8 to uint64, matrices, text in UTF-8, 16 and 32."""
_PLAIN, _SPARSE, _COMPLEX = frozenset({4, *range(6, 16)}), 5, 0x800
_HEADER, _MOST_AXES = 128, 32
_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32"}
"""Filters of HDF5 that MATLAB writes, and that are always there."""


def require_sound_hdf5(file: Any, path: Path) -> None:
    """Refuse an opened HDF5 file of which a part is elsewhere, missing, or larger than the file can hold.

    Raises:
        DataError: data outside the file, virtual data, unknown filters, data never written, or more than its share.
    """
    import h5py

    total, allowed = 0, ROOM + GROWTH * path.stat().st_size
    for name, node in _nodes(file, path):
        if not isinstance(node, h5py.Dataset):
            continue
        if node.external:
            raise DataError(f"{path}: the data of {name} is in another file ({node.external[0][0]}), which is not read")
        if node.is_virtual:
            raise DataError(f"{path}: {name} is put together from other files, which are not read")
        if node.shape is None or node.size == 0:
            continue
        plan = node.id.get_create_plist()
        filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
        if len(set(filters)) < len(filters) or not set(filters) <= set(_FILTERS):
            known = ", ".join(_FILTERS.values())
            raise DataError(f"{path}: {name} is stored by filters {filters} of HDF5; only {known} are read, each once")
        total += math.prod(node.shape) * node.dtype.itemsize
        if total > allowed:
            raise DataError(f"{path}: says that it holds {total / 1e9:.1f} GB, which a file of its size cannot")
        whole = node.id.get_storage_size() > 0
        if node.chunks is not None:
            chunks = math.prod(-(-n // c) for n, c in zip(node.shape, node.chunks, strict=True))
            whole = node.id.get_num_chunks() == chunks
            size = math.prod(node.chunks) * node.dtype.itemsize
            stored = (node.id.get_chunk_info(i).size for i in range(node.id.get_num_chunks()))
            if any(length > size + size // 8 + 4096 for length in stored):
                raise DataError(f"{path}: a piece of {name} takes more room in the file than what it stands for")
            if math.prod(node.chunks) * node.dtype.itemsize > ROOM:
                raise DataError(f"{path}: {name} is stored in pieces of over {ROOM >> 20} MiB")
        if not whole:
            raise DataError(f"{path}: {name} was never written, or not all of it; it would be read as zeros")


def _nodes(file: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield every group and dataset of the file once, by its name.

    Raises:
        DataError: a link leads to another file or to nothing.
    """
    import h5py

    seen = set()
    left = [("/", file["/"])]
    while left:
        name, node = left.pop()
        place = h5py.h5o.get_info(node.id).addr
        if place in seen:
            continue
        seen.add(place)
        yield name, node
        if isinstance(node, h5py.Group):
            for key in node:
                link = node.get(key, getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    raise DataError(f"{path}: {name}{key} is in another file ({link.filename}), which is not read")
                left.append((f"{name.rstrip('/')}/{key}", node[key]))


def require_sound_matlab5(path: Path) -> None:
    """Refuse a MATLAB file of version 5 whose content is too deep, or larger than the file can hold.

    Raises:
        DataError: it is one of these, or truncated.
    """
    size = path.stat().st_size
    left = ROOM + GROWTH * size
    if size < _HEADER:
        return  # the reader says that it is no such file
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        order = {b"IM": "<", b"MI": ">"}.get(whole[_HEADER - 2 : _HEADER])
        if order is None:
            return  # an older version, which has neither structs nor compression
        place = _HEADER
        while place + 8 <= size:
            kind, count = struct.unpack_from(f"{order}II", whole, place)
            end = place + 8 + count
            if end > size:
                raise DataError(f"{path}: truncated, or says that it is larger than it is")
            if kind == _COMPRESSED:
                content = _unpacked(whole[place + 8 : end], left, path)
                left -= len(content)
                left -= _require_shallow(content, 0, len(content), order, path, left)
            else:
                left -= _require_shallow(whole, place, end, order, path, left)
            place = end


def _unpacked(content: bytes, most: int, path: Path) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(content, max(1, most))
    except zlib.error as error:
        raise DataError(f"{path}: damaged ({error})") from error
    if unpacker.unconsumed_tail:
        raise DataError(f"{path}: unpacks to more than {GROWTH} times its size, and is not read")
    return found


def _require_shallow(content: bytes | mmap.mmap, place: int, end: int, order: str, path: Path, most: int) -> int:
    """Refuse matrices within matrices that are too deep or say too much; return what their declared sizes come to."""
    ends = [end]
    declared = 0
    while place + 8 <= end:
        while len(ends) > 1 and place >= ends[-1]:
            ends.pop()
        kind, count = struct.unpack_from(f"{order}II", content, place)
        place += 8
        if (kind & 0xFFFF if kind >> 16 else kind) not in _KINDS or kind >> 16 > 4:  # beyond SciPy's own tables
            raise DataError(f"{path}: damaged (an element of the unknown kind {kind:#x})")
        if kind >> 16:  # a small element: kind, size and value are in these eight bytes
            continue
        if place + count > end:
            raise DataError(f"{path}: truncated, or damaged (a part that is longer than the whole)")
        if kind == _MATRIX:
            if len(ends) >= DEEPEST:
                raise DataError(f"{path}: structs or cells are more than {DEEPEST} deep in one another")
            _require_plain(content, place, place + count, order, path)
            ends.append(place + count)
            declared += 8 * max(0, _declared(content, place, end, order))
            if declared > most:
                raise DataError(f"{path}: says that it holds more than {GROWTH} times its size")
        else:
            place += -(-count // 8) * 8
    return declared


def _require_plain(content: bytes | mmap.mmap, place: int, end: int, order: str, path: Path) -> None:
    """Refuse a matrix of numbers or text whose parts are not the four that it has: SciPy would read on beyond its end.

    They are flags, sizes, name and data. Complex and sparse matrices, which have more, occur in no file of these.
    """
    kinds: list[int] = []
    places = [place]
    while place + 8 <= end and len(kinds) < 4:
        kind, count = struct.unpack_from(f"{order}II", content, place)
        small = kind >> 16
        kinds.append(kind & 0xFFFF if small else kind)
        place += 8 if small else 8 + -(-count // 8) * 8
        places.append(place)
    if not kinds or places[1] - places[0] != 16:
        raise DataError(f"{path}: damaged (a matrix without flags)")
    (flags,) = struct.unpack_from(f"{order}I", content, places[0] + 8)
    of_class = flags & 0xFF
    if flags & _COMPLEX or of_class == _SPARSE:
        raise DataError(f"{path}: holds complex or sparse matrices, which are not read")
    if of_class in _PLAIN and (len(kinds) < 4 or kinds[:3] != [6, 5, 1] or kinds[3] == _MATRIX or place < end - 7):
        raise DataError(f"{path}: damaged (a matrix with other parts than sizes, name and data)")


def _declared(content: bytes | mmap.mmap, place: int, end: int, order: str) -> int:
    """Return the number of elements that the matrix at `place` says it has; 0 if it is damaged.

    The reader makes room for so many cells before it looks for them.
    """
    if place + 8 > end:
        return 0
    _, flags = struct.unpack_from(f"{order}II", content, place)
    place += 8 + -(-flags // 8) * 8
    if place + 8 > end:
        return 0
    kind, count = struct.unpack_from(f"{order}II", content, place)
    place += 8
    if kind >> 16 or count > 4 * _MOST_AXES or place + count > end:
        return 0
    return math.prod(struct.unpack_from(f"{order}{count // 4}i", content, place))
