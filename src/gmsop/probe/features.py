"""Features of images, computed once: a folder of arrays, opened as memory maps.

    LAYER.npy     (n, C, H, W) float16, or float32 where a number is too large for float16; a file for each layer
    LAYER.flip.npy   the same of the mirrored images, if they were asked for
    labels.npy    (n,) int64, 0-based
    meta.json     format, version, backbone, weights, preprocess, layers, data, names, class_names, is_test, sha256

Memory does not grow with their number: pages are read when their images are.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmsop.errors import DataError, UnknownNameError
from gmsop.utils.arrays import open_array
from gmsop.utils.files import digest
from gmsop.utils.options import PositiveInt, is_valid
from gmsop.utils.text import open_text

FORMAT, VERSION = "gmsop-features", 1
META = "meta.json"
VERIFY_BELOW = 2**28
"""Files smaller than this many bytes are checked against their checksums when they are opened."""


@dataclass(frozen=True)
class Features:
    """Holds the features of n images at several layers of one backbone; see `gmsop.probe.extract`."""

    path: Path
    meta: dict[str, Any]
    maps: dict[str, NDArray[Any]]
    """For each layer, first to last, (n, C, H, W): memory maps."""
    flipped: dict[str, NDArray[Any]]
    """The same of the mirrored images; empty if there are none."""
    labels: NDArray[np.int64]
    """(n,)."""
    is_test: NDArray[np.bool_] | None
    """(n,): which images are to test on; None: cross-validation."""

    @classmethod
    def open(cls, path: str | Path, backbone: str | None = None, data: str | None = None) -> "Features":
        """Open what `extract` wrote.

        Args:
            backbone: the model they must be of.
            data: the fingerprint that their images must have.

        Raises:
            DataError: no features; a file is missing, truncated or changed; they are of another backbone or images.
        """
        path = Path(path)
        meta = read_meta(path)
        for what, wanted, found in (
            ("backbone", backbone, meta["backbone"]),
            ("images", data, meta["data"]["fingerprint"]),
        ):
            if wanted is not None and wanted != found:
                raise DataError(f"{path}: features of another {what}: {found}, not {wanted}")
        count, views = len(meta["names"]), ("", ".flip") if meta["flip"] else ("",)
        arrays = {
            view: {
                layer: _array(path, meta, f"{layer}{view}.npy", (count, *shape["shape"]), shape["dtype"])
                for layer, shape in meta["layers"].items()
            }
            for view in views
        }
        labels = np.array(_array(path, meta, "labels.npy", (count,), "int64"))
        if count and not 0 <= labels.min() <= labels.max() < len(meta["class_names"]):
            raise DataError(f"{path / 'labels.npy'}: labels that are no class")
        is_test = None if meta["is_test"] is None else np.array(meta["is_test"], bool)
        if is_test is not None and len(is_test) != count:
            raise DataError(f"{path / META}: not written by gmsop, or changed")
        return cls(path, meta, arrays[""], arrays.get(".flip", {}), labels, is_test)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def backbone(self) -> str:
        """Return timm's name of the backbone."""
        return str(self.meta["backbone"])

    @property
    def class_names(self) -> list[str]:
        """Return the class names; label i is `class_names[i]`."""
        return list(self.meta["class_names"])

    @property
    def layers(self) -> list[str]:
        """Return the names of the layers, first to last."""
        return list(self.maps)

    def channels(self, layer: str) -> int:
        """Return C of a layer.

        Raises:
            UnknownNameError: there is no such layer; the text lists the nearest.
        """
        return int(self.of(layer).shape[1])

    def of(self, layer: str) -> NDArray[Any]:
        """Return the maps (n, C, H, W) of a layer.

        Raises:
            UnknownNameError: there is no such layer; the text lists the nearest.
        """
        if layer not in self.maps:
            raise UnknownNameError.of("layer", layer, self.maps)
        return self.maps[layer]

    def batches(
        self, layer: str, rows: Sequence[int] | NDArray[np.int64] | None = None, size: int = 256
    ) -> Iterator[Tensor]:
        """Yield the maps of some images, or of all, in float32, (b, C, H, W)."""
        maps = self.of(layer)
        chosen = np.arange(len(self)) if rows is None else np.asarray(rows)
        for start in range(0, len(chosen), size):
            yield torch.from_numpy(np.asarray(maps[chosen[start : start + size]], np.float32))


def read_meta(path: Path) -> dict[str, Any]:
    """Return the description of a folder of features.

    Raises:
        DataError: there is none, of another version, or with entries that cannot be.
    """
    file = path / META
    try:
        if not file.is_file():
            raise DataError(f"{path}: no features; `gmsop features` writes them")
        with open_text(file) as stream:
            meta = json.load(stream)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise DataError(f"{file}: not a description of features")
    if meta.get("version") != VERSION:
        raise DataError(f"{path}: features of version {meta.get('version')}, this gmsop reads {VERSION}")
    wrong = [key for key, is_good in _ENTRIES.items() if key not in meta or not is_good(meta[key])]
    if wrong:
        raise DataError(f"{file}: not written by gmsop, or changed ({', '.join(wrong)})")
    return meta


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _are_layers(value: Any) -> bool:
    """Whether each is a name that can be a file's, with the shape and dtype of its maps."""
    return isinstance(value, dict) and all(
        name.isprintable()
        and not set(name) & set("/\\")
        and not name.startswith(".")
        and isinstance(layer, dict)
        and set(layer) == {"shape", "dtype"}
        and is_valid(layer["shape"], list[PositiveInt])
        and len(layer["shape"]) == 3
        and layer["dtype"] in ("float16", "float32")
        for name, layer in value.items()
    )


def _is_preprocess(value: Any) -> bool:
    if not isinstance(value, dict) or not is_valid(value.get("image_size"), PositiveInt):
        return False
    return all(is_valid(value.get(key), list[float]) and len(value[key]) == 3 for key in ("mean", "std"))


_ENTRIES: dict[str, Callable[[Any], bool]] = {
    "backbone": lambda value: isinstance(value, str),
    "weights": lambda value: isinstance(value, dict) and _are_texts([value.get("from"), value.get("sha256")]),
    "preprocess": _is_preprocess,
    "layers": _are_layers,
    "data": lambda value: isinstance(value, dict) and _are_texts([value.get("path"), value.get("fingerprint")]),
    "names": _are_texts,
    "class_names": lambda value: _are_texts(value) and bool(value),
    "is_test": lambda value: value is None or (isinstance(value, list) and all(type(entry) is bool for entry in value)),
    "flip": lambda value: type(value) is bool,
    "sha256": lambda value: isinstance(value, dict) and _are_texts(list(value.values())),
}
"""What a description holds, and what says that it can be."""


def _array(path: Path, meta: dict[str, Any], name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    file = path / name
    array = open_array(file, shape, dtype)
    if file.stat().st_size < VERIFY_BELOW and digest(file) != meta["sha256"].get(name):
        raise DataError(f"{file}: its content is not what was written")
    return array
