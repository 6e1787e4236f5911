"""JSON lines: one JSON object per image."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from gmsop.evaluation.outputs.registry import OUTPUT_FORMS, Fields, OutputForm, Record


def json_line(record: Record) -> str:
    """Return a record as a line of JSON. Bytes of names that are no UTF-8 are escaped, as Python does."""
    return json.dumps(record, separators=(", ", ": ")) + "\n"


def stream(records: Iterable[Record], fields: Fields, out: IO[str]) -> None:
    """Write the records to a stream."""
    for record in records:
        out.write(json_line(record))


def write(records: Iterable[Record], fields: Fields, path: Path) -> None:
    """Write a file of all records."""
    with path.open("w", encoding="utf-8") as file:
        stream(records, fields, file)


OUTPUT_FORMS.add("jsonl", OutputForm("jsonl", ".jsonl", write, stream))
