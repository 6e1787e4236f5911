"""Read and write what a run leaves as CSV, a row per epoch: `metrics.csv`, and `timing.csv` beside it."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from gmsop.errors import DataError
from gmsop.utils.files import writing
from gmsop.utils.text import open_text

METRICS = "metrics.csv"
LARGEST = 2**26
"""Characters of a file that is read."""
Epochs = dict[int, dict[str, float]]


def read_metrics(path: str | Path) -> Epochs:
    """Return the values logged in each epoch, by its number (from 0).

    Raises:
        OSError: there is no such file.
        DataError: the file is damaged: a row has too few or too many cells, a cell is no number, the epochs are not 0,
            1, 2, ..., or the last line has no end.
    """
    with open_text(Path(path), newline="") as file:
        try:
            text = file.read(LARGEST + 1)
            if len(text) > LARGEST:
                raise ValueError(f"more than {LARGEST:,} characters")
            header, *rows = csv.reader(text.splitlines())
            if header[:1] != ["epoch"] or len(set(header)) < len(header):
                raise ValueError("no column epoch, or a column twice")
            if not text.endswith("\n"):
                raise ValueError("the last line has no end")
            found: Epochs = {}
            for number, row in enumerate(rows):
                if len(row) != len(header):
                    raise ValueError(f"row {number + 1} has {len(row)} cells, the header {len(header)}")
                if int(row[0]) != number:
                    raise ValueError(f"row {number + 1} is of epoch {row[0]}")
                found[number] = {k: float(v) for k, v in zip(header[1:], row[1:], strict=True) if v}
            return found
        except (ValueError, csv.Error) as error:
            raise DataError(f"{path}: damaged ({error})") from error


def read_timing(path: str | Path) -> Epochs:
    """Return the rows of `timing.csv`, as `read_metrics` does.

    Raises:
        OSError: there is no such file.
        DataError: the file is damaged, or has a time that cannot be.
    """
    rows = read_metrics(path)
    if not all(0 <= value < math.inf for row in rows.values() for value in row.values()):
        raise DataError(f"{path}: damaged (a time that cannot be)")
    return rows


def total_seconds(timing: Epochs) -> float:
    """Return the seconds of training and validation, over all epochs in a run's `timing.csv`."""
    return sum(row.get("train_seconds", 0) + row.get("val_seconds", 0) for row in timing.values())


def write_metrics(path: str | Path, epochs: Mapping[int, Mapping[str, float]]) -> None:
    """Write the rows of all epochs. The file is replaced whole: a crash leaves the old one or the new one.

    Raises:
        WriteError: there is no space or no permission.
    """
    names = list(dict.fromkeys(name for row in epochs.values() for name in row))
    with writing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["epoch", *names])
        writer.writeheader()
        writer.writerows({"epoch": e, **row} for e, row in sorted(epochs.items()))
