"""Read and write what a run leaves as CSV, a row per epoch: `metrics.csv`, and `timing.csv` beside it."""

import csv
from collections.abc import Mapping
from pathlib import Path

from gmsop.errors import DataError
from gmsop.utils.files import write_error, writing

Epochs = dict[int, dict[str, float]]


def read_metrics(path: str | Path) -> Epochs:
    """Return the values logged in each epoch, by its number (from 0).

    Raises:
        OSError: there is no such file.
        DataError: the file is damaged.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        try:
            rows = csv.DictReader(file)
            if "epoch" not in (rows.fieldnames or ()):
                raise ValueError("no column epoch")
            return {int(row["epoch"]): {k: float(v) for k, v in row.items() if k != "epoch" and v} for row in rows}
        except (ValueError, TypeError, AttributeError, csv.Error) as error:
            raise DataError(f"{path}: damaged ({error})") from error


def total_seconds(timing: Epochs) -> float:
    """Return the seconds of training and validation, over all epochs in a run's `timing.csv`."""
    return sum(row.get("train_seconds", 0) + row.get("val_seconds", 0) for row in timing.values())


def set_aside_damaged(path: Path) -> Path | None:
    """Rename a CSV file that is damaged, so that its name is free. Return its new name, or None.

    None means that the file is missing or not damaged.

    Raises:
        WriteError: the file cannot be renamed.
    """
    try:
        read_metrics(path)
        return None
    except FileNotFoundError:
        return None
    except DataError:
        aside = path.with_name(f"{path.stem}-damaged{path.suffix}")
    try:
        return path.replace(aside)
    except OSError as error:
        raise write_error(aside, error) from error


def log_epoch(path: str | Path, epoch: int, values: Mapping[str, float]) -> None:
    """Write the row of `epoch`, and remove the rows of later epochs.

    Later rows are left from a run that was stopped and is resumed from before them. The file is replaced whole: a crash
    leaves the old one or the new one.

    Raises:
        WriteError: there is no space or no permission.
    """
    path = Path(path)
    rows: Epochs = read_metrics(path) if path.exists() else {}
    rows = {e: row for e, row in rows.items() if e < epoch} | {epoch: dict(values)}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    with writing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["epoch", *names])
        writer.writeheader()
        writer.writerows({"epoch": e, **row} for e, row in sorted(rows.items()))
