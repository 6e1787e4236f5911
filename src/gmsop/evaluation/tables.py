"""Write confusion matrices and errors per class as CSV files.

A class name that a spreadsheet would take for a formula has an apostrophe before it.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gmsop.utils.files import writing
from gmsop.utils.text import cell


def write_confusion(path: str | Path, names: Sequence[str], confusion: Tensor) -> None:
    """Write the matrix (classes, classes) with a header: a row per true class, a column per answer.

    Raises:
        WriteError: there is no space or no permission.
    """
    _write_rows(path, ["class", *names], ([n, *row] for n, row in zip(names, confusion.tolist(), strict=True)))


def write_class_errors(path: str | Path, names: Sequence[str], confusion: Tensor) -> None:
    """Write for each class its images, its errors, its top-1 error in percent, and the most common wrong answer.

    Raises:
        WriteError: there is no space or no permission.
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
        writer.writerow(map(cell, header))
        writer.writerows([cell(value) if isinstance(value, str) else value for value in row] for row in rows)
