"""Read tables of image files and their labels (CSV, TSV)."""

import csv
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import IO, NamedTuple

from gmsop.data.class_names import require_one_spelling
from gmsop.data.image_files import TEST_FOLDERS, TRAIN_FOLDERS, VAL_FOLDERS
from gmsop.errors import DataError, DataWarning
from gmsop.utils.text import open_text, printable

PATH_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS = ("path", "file", "filename", "image"), ("label", "class"), ("split",)


class Row(NamedTuple):
    """Names an image file, its class and, if the table has splits, whether it is to test on."""

    file: str
    label: str
    is_test: bool | None


def is_table(path: Path) -> bool:
    """Whether a path is that of a table."""
    return path.is_file() and path.suffix.lower() in (".csv", ".tsv")


def read_table(path: Path, keep_missing: bool = False) -> list[Row]:
    """Read a table with a header: columns `path` (or `file`, `filename`, `image`), `label` (or `class`), maybe `split`.

    Spaces around cells do not count. Paths are relative to the table's own folder; one with backslashes, as Windows
    writes it, is understood where that finds the file.

    Args:
        keep_missing: return rows of files that are not there, too, instead of raising.

    Raises:
        DataError: it is no such table, or names no image; files that are not there; a class in two spellings; an image
            with two labels.
    """
    try:
        with open_text(path, newline="") as file:
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            lines = [[cell.strip() for cell in row] for row in _cells(file, delimiter, path)]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: not a table in UTF-8, or its quotation marks are wrong ({error})") from error
    header = [cell.lower() for cell in lines[0]] if lines else []

    def column(names: Sequence[str]) -> int | None:
        found = [index for index, name in enumerate(header) if name in names]
        if len(found) > 1:
            both = " and ".join(repr(header[index]) for index in found[:2])
            raise DataError(f"{path}: the columns {both} could both be meant; keep one of them")
        return found[0] if found else None

    where, what, split = column(PATH_COLUMNS), column(LABEL_COLUMNS), column(SPLIT_COLUMNS)
    if where is None or what is None:
        found = ", ".join(printable(cell)[:40] for cell in header[:8])
        raise DataError(
            f"{path}: the first line must name a column {' or '.join(PATH_COLUMNS)} and a column "
            f"{' or '.join(LABEL_COLUMNS)}, got {found or 'nothing'}"
        )
    rows, missing = [], []
    labels: dict[str, tuple[str, int]] = {}
    words = {line[split].lower() for line in lines[1:] if split is not None and len(line) > split}
    left = words & set(TEST_FOLDERS) if words & set(VAL_FOLDERS) else set()
    if left:
        text = f"{path}: the images of val are tested on; those of {', '.join(sorted(left))} are left alone"
        warnings.warn(text, DataWarning, stacklevel=4)
    for number, line in enumerate(lines[1:], 2):
        if not any(line):
            continue
        if len(line) != len(header):
            raise DataError(f"{path}, line {number}: {len(line)} cells, the header has {len(header)}")
        if not line[where] or not line[what]:
            raise DataError(f"{path}, line {number}: no {'label' if line[where] else 'path'}")
        if split is not None and line[split].lower() in left:
            continue
        is_test = None if split is None else _is_test(path, number, line[split])
        place = _place(path.parent, line[where])
        if place is None:
            missing.append(line[where])
        before, there = labels.setdefault(place or line[where], (line[what], number))
        if before != line[what]:
            labelled = f"{printable(before)!r} in line {there}, {printable(line[what])!r} here"
            raise DataError(f"{path}, line {number}: {printable(line[where])} has two labels: {labelled}")
        rows.append(Row(place or str(path.parent / line[where]), line[what], is_test))
    if missing and not keep_missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(rows)} files are not there, the first is {printable(missing[0])} "
            f"(sought in {path.parent})"
        )
    if not rows:
        raise DataError(f"{path}: no image in it")
    require_one_spelling({row.label for row in rows}, str(path))
    return rows


def _cells(file: IO[str], delimiter: str, path: Path) -> Iterator[list[str]]:
    """Yield the rows of a table, each of one line: with one quotation mark too few, a cell would swallow the next."""
    last = 0
    reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
    for row in reader:
        if reader.line_num > last + 1:
            raise DataError(f"{path}, line {last + 1}: a quotation mark is missing (a cell would go over lines)")
        last = reader.line_num
        yield row


def _is_test(path: Path, number: int, word: str) -> bool:
    if word.lower() in TRAIN_FOLDERS:
        return False
    if word.lower() in (*VAL_FOLDERS, *TEST_FOLDERS):
        return True
    known = ", ".join((TRAIN_FOLDERS[0], *VAL_FOLDERS, TEST_FOLDERS[0]))
    raise DataError(f"{path}, line {number}: split {printable(word)!r}; there are {known}")


def _place(root: Path, cell: str) -> str | None:
    """Return the path of a cell's file, or None if it is not there."""
    for name in (cell, PureWindowsPath(cell).as_posix()):
        try:
            if (root / name).is_file():
                return str(root / name)
        except (OSError, ValueError):  # too long, or with a zero byte
            continue
    return None
