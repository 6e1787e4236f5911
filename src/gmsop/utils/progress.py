"""Show the progress of everything that takes long: what, how far, how fast, how much longer."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from gmsop.utils import verbosity

EVERY = 30.0
"""Seconds between the lines of a log, where there is no terminal to draw a bar on."""


def progress_bar(show: bool) -> Progress:
    """Return a bar on stderr that is gone when done. In the log of a job, it prints a line now and then instead.

    A task of more than 100 million steps is taken to count bytes.
    """
    console, show = Console(stderr=True), show and not verbosity.quiet
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _Rate(), TimeRemainingColumn())
    if show and not console.is_terminal:
        return _Lines(*columns, console=console, disable=True)
    return Progress(*columns, console=console, disable=not show, transient=True)


class _Lines(Progress):
    """Prints a line every half minute instead of drawing a bar."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._said = time.monotonic()

    def advance(self, task_id: Any, advance: float = 1) -> None:
        super().advance(task_id, advance)
        if time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            task = next(task for task in self.tasks if task.id == task_id)
            if task.total is None:  # nobody knows how many are to come
                self.console.print(f"{task.description} {task.completed:,.0f}, {_rate(task)}", markup=False)
                return
            left = TimeRemainingColumn().render(task)
            self.console.print(f"{task.description} {task.percentage:.0f} %, {_rate(task)}, {left} left", markup=False)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_rate(task))


def _rate(task: Task) -> str:
    if task.speed is None:
        return ""
    if 0 < task.speed < 1:
        return f"{1 / task.speed:.1f} s each"
    return f"{task.speed / 1e6:.0f} MB/s" if (task.total or 0) > 1e8 else f"{task.speed:,.0f}/s"
