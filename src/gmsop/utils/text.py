"""Read the text files that come with data sets."""

from collections.abc import Iterator
from pathlib import Path

from gmsop.errors import DataError


def read_lines(file: Path) -> Iterator[str]:
    """Yield the lines of a text file one by one, because that of Places-365 has 1.8 million.

    Raises:
        DataError: the file is missing, or not UTF-8.
    """
    try:
        with file.open(encoding="utf-8") as stream:
            for line in stream:
                yield line.rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
