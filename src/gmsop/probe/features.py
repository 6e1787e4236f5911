"""Features of images, computed once: a folder of arrays, opened as memory maps.

    LAYER.npy     (n, C, H, W) float16, or float32 where a number is too large for float16; a file for each layer
    LAYER.flip.npy   the same of the mirrored images, if they were asked for
    labels.npy    (n,) int64, 0-based
    meta.json     format, version, backbone, weights, preprocess, layers, data, names, class_names, is_test, sha256

Memory does not grow with their number: pages are read when their images are.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmsop.errors import DataError, UnknownNameError
from gmsop.utils.files import digest

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
        DataError: there is none, or of another version.
    """
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no features; `gmsop features` writes them") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path / META}: cannot be read ({error})") from error
    keys = {"backbone", "data", "names", "layers", "class_names", "is_test", "flip", "weights", "preprocess", "sha256"}
    if not isinstance(meta, dict) or meta.get("format") != FORMAT or not keys <= set(meta):
        raise DataError(f"{path / META}: not a description of features")
    if meta.get("version") != VERSION:
        raise DataError(f"{path}: features of version {meta.get('version')}, this gmsop reads {VERSION}")
    return meta


def _array(path: Path, meta: dict[str, Any], name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    file = path / name
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file}: missing or truncated ({error})") from error
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise DataError(f"{file}: {array.dtype} {array.shape}, expected {dtype} {shape}")
    if file.stat().st_size < VERIFY_BELOW and digest(file) != meta["sha256"].get(name):
        raise DataError(f"{file}: its content is not what was written")
    return array
