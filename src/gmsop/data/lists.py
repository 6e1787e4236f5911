"""The text files that come with data sets."""

from pathlib import Path

from gmsop.errors import DataError


def read_list(file: Path) -> str:
    """A text file.

    Raises:
        DataError: missing, or not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
