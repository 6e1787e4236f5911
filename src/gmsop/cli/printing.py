"""Print what several commands print, to stdout or stderr."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.text import Text

from gmsop.errors import ConfigError
from gmsop.utils import verbosity
from gmsop.utils.files import write_error
from gmsop.utils.text import printable_lines

T = TypeVar("T", bound=Any)


class SafeConsole(Console):
    """Shows what is in names of files and classes as text: a terminal acts on no character of them."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn text into what is printed, with characters escaped that a terminal would act on."""
        return super().render_str(printable_lines(text), **options)


out = SafeConsole(
    soft_wrap=True, highlight=False, emoji=False, width=None if sys.stdout and sys.stdout.isatty() else 160
)
err = SafeConsole(stderr=True, soft_wrap=True, highlight=False, emoji=False)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON; what is not a number becomes null, which JSON has no word for."""
    print(json.dumps(_sound(value), allow_nan=False))


def _sound(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _sound(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_sound(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def note(text: str) -> None:
    """Print what is good to know on stderr, unless --quiet."""
    if not verbosity.quiet:
        err.print(f"gmsop: {text}", markup=False)


NAMED = 20
"""Images that could not be read, of which the names are printed."""


def print_result(result: Any) -> None:
    """Print the errors of an `Evaluation`, and what its gate did."""
    (low, high), (low5, high5) = result.top1_interval, result.top5_interval
    out.print(
        f"top-1 error {result.top1_error:.2f} % (95 % interval {low:.2f} to {high:.2f}), "
        f"top-5 error {result.top5_error:.2f} % ({low5:.2f} to {high5:.2f}), "
        f"cross-entropy {result.loss:.4f}, {result.images:,} images"
    )
    if result.usage is not None:
        shares = " ".join(f"{100 * share:.1f}" for share in result.usage.load)
        dead = f"; no image went to {', '.join(map(str, result.usage.dead))}" if result.usage.dead else ""
        out.print(f"gate weight per component, %: {shares}{dead}")


def free_folder(path: Path) -> Path:
    """Make and return a new folder: `path`, or `path-2`, `path-3`, ... if that exists. Nobody else gets the same one.

    Raises:
        WriteError: the folder cannot be made.
    """
    candidate, number = path, 2
    while True:
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
        except OSError as error:
            raise write_error(candidate, error) from error


def device_count(devices: str) -> int | str:
    """Return the value of the option --devices: a number, or "auto".

    Raises:
        ConfigError: it is neither.
    """
    if devices == "auto":
        return devices
    if not devices.isdecimal() or int(devices) < 1:
        raise ConfigError(f"--devices must be a number from 1 on, or auto, got {devices!r}")
    return int(devices)


class Failures:
    """Counts images, and names the first that could not be read."""

    def __init__(self) -> None:
        self.images = self.failed = self.named = 0

    def note(self, error: str | None) -> None:
        self.images += 1
        if error is None:
            return
        self.failed += 1
        self.named += 1
        if self.named <= NAMED:
            err.print(f"gmsop: error: {error}", markup=False)
        elif self.named == NAMED + 1:
            err.print("gmsop: more images that cannot be read are counted only", markup=False)

    def count_again(self, records: Iterator[dict[str, Any]]) -> None:
        for record in records:
            self.images += 1
            self.failed += record.get("error") is not None

    def watched(self, answers: Iterator[T]) -> Iterator[T]:
        for answer in answers:
            self.note(answer.error)
            yield answer

    def end(self) -> int:
        if self.failed:
            err.print(f"gmsop: {self.failed:,} of {self.images:,} images could not be read", markup=False)
        if not self.images:
            err.print("gmsop: error: there are no images", markup=False)
        return 1 if self.failed or not self.images else 0
