"""Register the forms by name. A record is what a line of JSON can hold: texts, numbers, and lists of them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gmsop.errors import ConfigError
from gmsop.utils.registry import Registry

Record = Mapping[str, Any]
Fields = Mapping[str, int | None]
"""The names of a record's entries, each with the length of its list; None of what is no list."""


@dataclass(frozen=True)
class OutputForm:
    """Says how records are written."""

    name: str
    suffix: str
    write: Callable[[Iterable[Record], Fields, Path], None]
    """Writes a whole file."""
    stream: Callable[[Iterable[Record], Fields, IO[str]], None] | None
    """Writes record after record to a stream of text; None where the form cannot."""


OUTPUT_FORMS: Registry[OutputForm] = Registry("output form", "gmsop.evaluation.outputs")


def form_for(path: Path | None, name: str | None) -> OutputForm | None:
    """Return the form that is named, or that a file's extension asks for; None if neither says one.

    Raises:
        UnknownNameError: there is no such form.
        ConfigError: the extension is no form's.
    """
    if name is not None:
        return OUTPUT_FORMS[name]
    if path is None:
        return None
    for form in OUTPUT_FORMS:
        if path.suffix.lower() == form.suffix:
            return form
    known = ", ".join(form.suffix for form in OUTPUT_FORMS)
    raise ConfigError(f"{path}: the extension says no form of output; there are {known}")
