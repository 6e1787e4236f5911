"""What runs and evaluations leave as CSV: `metrics.csv`, a row per epoch; confusion matrices; errors per class."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gmsop.errors import DataError
from gmsop.files import write_error, writing

Epochs = dict[int, dict[str, float]]


def read_metrics(path: str | Path) -> Epochs:
    """Epoch (from 0) to the values logged in it.

    Raises:
        OSError: no such file.
        DataError: damaged.
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
    """Of training and validation, of all epochs in a run's `timing.csv`."""
    return sum(row.get("train_seconds", 0) + row.get("val_seconds", 0) for row in timing.values())


def set_aside_damaged(path: Path) -> Path | None:
    """The new name of a CSV file that cannot be read, if it could not: its place is free then.

    Raises:
        WriteError: it cannot be renamed.
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
    """Write the row of `epoch`. Later rows, of a run that was stopped and is resumed from before them, go.

    The file is replaced whole: a crash leaves the old one or the new one.

    Raises:
        WriteError: no space, no permission.
    """
    path = Path(path)
    rows: Epochs = read_metrics(path) if path.exists() else {}
    rows = {e: row for e, row in rows.items() if e < epoch} | {epoch: dict(values)}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    with writing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["epoch", *names])
        writer.writeheader()
        writer.writerows({"epoch": e, **row} for e, row in sorted(rows.items()))


def write_confusion(path: str | Path, names: Sequence[str], confusion: Tensor) -> None:
    """The matrix (classes, classes) with a header: a row per true class, a column per answer.

    Raises:
        WriteError: no space, no permission.
    """
    _write_rows(path, ["class", *names], ([n, *row] for n, row in zip(names, confusion.tolist(), strict=True)))


def write_class_errors(path: str | Path, names: Sequence[str], confusion: Tensor) -> None:
    """Per class its images, how many were told wrong, the top-1 error in percent, and what it was taken for most.

    Raises:
        WriteError: no space, no permission.
    """
    rows: list[list[Any]] = []
    for i, (name, counts) in enumerate(zip(names, confusion, strict=True)):
        images, right = int(counts.sum()), int(counts[i])
        others = counts.clone()
        others[i] = 0
        mistaken = names[int(others.argmax())] if images > right else ""
        rows.append([name, images, images - right, f"{100 * (1 - right / images):.2f}" if images else "", mistaken])
    _write_rows(path, ["class", "images", "errors", "top1_error", "most_often_taken_for"], rows)


def _write_rows(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with writing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
