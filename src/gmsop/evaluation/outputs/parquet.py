"""Parquet: columns, compressed, as data frames and search engines read them."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from gmsop.errors import ConfigError
from gmsop.evaluation.outputs.registry import OUTPUT_FORMS, Fields, OutputForm, Record
from gmsop.utils.text import printable

ROWS = 10_000
"""Rows that are written at a time."""


def write(records: Iterable[Record], fields: Fields, path: Path) -> None:
    """Write a file of all records.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    pa, parquet = require_pyarrow()
    left = iter(records)
    schema, writer = None, None
    try:
        while chunk := list(islice(left, ROWS)):
            schema = schema or _schema(pa, chunk, fields)
            rows = [{name: _sound(record.get(name)) for name in fields} for record in chunk]
            table = pa.Table.from_pylist(rows, schema=schema)
            writer = writer or parquet.ParquetWriter(path, schema)
            writer.write_table(table)
        if writer is None:
            writer = parquet.ParquetWriter(path, pa.schema([(name, pa.string()) for name in fields]))
    finally:
        if writer is not None:
            writer.close()


def require_pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("Parquet is written by pyarrow, which is not installed: `pip install pyarrow`") from error
    return pyarrow, pyarrow.parquet


def _schema(pa: Any, chunk: list[Record], fields: Fields) -> Any:
    """Return the columns with their types, by the first values there are."""
    columns = []
    for name, length in fields.items():
        value = next((record[name] for record in chunk if record.get(name) not in (None, [])), "")
        first = value[0] if isinstance(value, list | tuple) else value
        kind = pa.string() if isinstance(first, str) else pa.int64() if isinstance(first, int) else pa.float32()
        columns.append((name, kind if length is None else pa.list_(kind)))
    return pa.schema(columns)


def _sound(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


OUTPUT_FORMS.add("parquet", OutputForm("parquet", ".parquet", write, None))
