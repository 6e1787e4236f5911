"""Write vectors of images as they come, .npy or .parquet; what was begun is gone on with.

Until all are there, raw numbers lie beside the list of the images that `Unfinished` keeps: vectors first, so that there
are never more names than vectors.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gmsop.data.image_sources import FoundImage
from gmsop.errors import ConfigError
from gmsop.evaluation.embedding import Embedded, Floats
from gmsop.evaluation.outputs.parquet import require_pyarrow
from gmsop.evaluation.unfinished import Unfinished
from gmsop.utils.files import beside, write_error, writing
from gmsop.utils.text import printable

SUFFIXES = (".npy", ".parquet")
ROWS = 4096


class VectorFile:
    """Collects vectors for a file.

    Args:
        path: ends in `.npy` (the images' names are then in a `.json` beside it), or in `.parquet`.
        of, resume, overwrite: see `Unfinished`.

    Raises:
        ConfigError: another extension; Parquet without pyarrow; see `Unfinished`.
    """

    def __init__(self, path: Path, of: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
        if path.suffix not in SUFFIXES:
            raise ConfigError(f"{path}: vectors are written to {' or '.join(SUFFIXES)}")
        if path.suffix == ".parquet":
            require_pyarrow()
        self.path, self.names = path, path.with_suffix(".json")
        begun = resume and beside(path, ".unfinished").exists()
        if path.suffix == ".npy" and self.names.exists() and not (overwrite or begun or path.exists()):
            raise ConfigError(f"{self.names} is there already: --overwrite replaces it")
        self.raw = beside(path, ".vectors")
        self.there = Unfinished(path, of, resume, overwrite)
        try:
            self._match()
        except OSError as error:
            self.there.__exit__()
            raise write_error(path, error) from error

    def _match(self) -> None:
        """Keep the images of which both the name and the vector are there; after a power cut, either may be short."""
        self.good = sum("error" not in record for record in self.there.records())
        self.dim = next((record["dim"] for record in self.there.records() if "dim" in record), 0)
        with self.raw.open("ab") as raw:
            there = raw.tell() // (4 * self.dim) if self.dim else 0
        if there < self.good:
            self.there.cut(there)
            self.good = there
        os.truncate(self.raw, 4 * self.good * self.dim)

    def __enter__(self) -> "VectorFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.there.__exit__()
        if not self.there.part.exists():
            self.raw.unlink(missing_ok=True)

    def rest(self, images: Iterable[FoundImage]) -> Iterator[FoundImage]:
        """Pass over the images that are there already."""
        return self.there.rest(images)

    def collect(self, found: Iterable[Embedded]) -> Iterator[Embedded]:
        """Append vectors as they come, and pass them on.

        Raises:
            WriteError: no space, no permission. What was written before is kept.
        """
        try:
            with self.raw.open("ab") as raw, self.there.writing(raw) as append:
                for each in found:
                    if each.vector is None:
                        append([{"image": each.name, "error": printable(each.error or "")}])
                    else:
                        raw.write(np.ascontiguousarray(each.vector, np.float32).tobytes())
                        raw.flush()
                        append([{"image": each.name, "dim": len(each.vector)}])
                        self.good, self.dim = self.good + 1, len(each.vector)
                    yield each
        except OSError as error:
            raise write_error(self.path, error) from error

    def vectors(self) -> Floats:
        """Return the vectors that are there, (n, V), from the disk."""
        if not self.good:
            return np.zeros((0, self.dim), np.float32)
        return np.memmap(self.raw, np.float32, "r", shape=(self.good, self.dim))

    def images(self) -> Iterator[str]:
        """Yield the names of the images that have a vector."""
        return (record["image"] for record in self.there.records() if "error" not in record)

    def finish(self) -> None:
        """Write the file, and remove what was unfinished.

        Raises:
            WriteError: no space, no permission.
        """
        vectors = self.vectors()
        if self.path.suffix == ".npy":
            with writing(self.names) as temporary, temporary.open("w", encoding="utf-8") as file:
                json.dump(list(self.images()), file, indent=0)
            with writing(self.path) as temporary, temporary.open("wb") as out:
                np.save(out, vectors)
        else:
            self._write_parquet(vectors)
        self.there.part.unlink(missing_ok=True)
        self.raw.unlink(missing_ok=True)

    def _write_parquet(self, vectors: Floats) -> None:
        pa, parquet = require_pyarrow()
        schema = pa.schema([("image", pa.string()), ("vector", pa.list_(pa.float32(), self.dim))])
        names = self.images()
        with writing(self.path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
            for start in range(0, len(vectors), ROWS):
                block = np.ascontiguousarray(vectors[start : start + ROWS])
                column = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), self.dim)
                labels = [printable(name) for name in islice(names, len(block))]
                writer.write_table(pa.Table.from_arrays([pa.array(labels, pa.string()), column], schema=schema))
