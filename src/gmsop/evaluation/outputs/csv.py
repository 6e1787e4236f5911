"""CSV: a line per image, a column per number; a list becomes columns that are counted from 1."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from gmsop.evaluation.outputs.registry import OUTPUT_FORMS, Fields, OutputForm, Record
from gmsop.utils.text import cell


def stream(records: Iterable[Record], fields: Fields, out: IO[str]) -> None:
    """Write a header and the records to a stream."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_header(fields))
    for record in records:
        writer.writerow(_cells(record, fields))


def _header(fields: Fields) -> Iterator[str]:
    for name, length in fields.items():
        if length is None:
            yield name
        else:
            yield from (f"{name}_{i}" for i in range(1, length + 1))


def _cells(record: Record, fields: Fields) -> Iterator[Any]:
    for name, length in fields.items():
        value = record.get(name)
        values = [value] if length is None else [*(value or ()), *[None] * (length - len(value or ()))]
        for each in values:
            yield cell(each) if isinstance(each, str) else each


def write(records: Iterable[Record], fields: Fields, path: Path) -> None:
    """Write a file of all records."""
    with path.open("w", encoding="utf-8", newline="") as file:
        stream(records, fields, file)


OUTPUT_FORMS.add("csv", OutputForm("csv", ".csv", write, stream))
