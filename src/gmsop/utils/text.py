"""Read text files that other programs wrote, and show text that may hold anything."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gmsop.errors import DataError

_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
"""Byte order marks, which Windows programs write, with the encodings that they mean."""


def encoding_of(file: Path) -> str:
    """Return the encoding of a text file: UTF-8, or what its byte order mark says.

    Raises:
        OSError: the file cannot be read.
    """
    if not file.is_file():
        raise FileNotFoundError(2, "not a file" if file.exists() else "no such file", str(file))
    with file.open("rb") as stream:
        start = stream.read(4)
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8")


def open_text(file: Path, newline: str | None = None) -> IO[str]:
    """Open a text file in UTF-8, or as its byte order mark says.

    Raises:
        OSError: the file cannot be read. Reading from it raises UnicodeDecodeError for what is not in that encoding.
    """
    return file.open(encoding=encoding_of(file), newline=newline)


def read_lines(file: Path) -> Iterator[str]:
    """Yield the lines of a text file one by one, because that of Places-365 has 1.8 million.

    Raises:
        DataError: the file is missing, or not UTF-8.
    """
    try:
        with open_text(file) as stream:
            for line in stream:
                yield line.rstrip("\n")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error


_HIDDEN = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but the tab, those that turn the direction of writing, and bytes that are no UTF-8."""


def printable(text: str) -> str:
    r"""Return a name with every character escaped that a terminal would act on, or that cannot be encoded.

    Names of files and classes may hold any byte. The escape character becomes `\x1b`, and so does a byte that is not
    UTF-8 (`\xff`).
    """
    return _HIDDEN.sub(_escaped, text)


def printable_lines(text: str) -> str:
    """Return a text of several lines with every other character escaped as in `printable`."""
    return "\n".join(map(printable, text.split("\n")))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def cell(text: str) -> str:
    """Return the text of a CSV cell, such that no spreadsheet takes a name for a formula.

    Where it begins as a formula does (=, +, -, @, tab), an apostrophe is put before it, which spreadsheets hide.
    """
    shown = printable(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@", "\t")) else shown


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its name if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
