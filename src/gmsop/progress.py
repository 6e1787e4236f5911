"""The progress bar of everything that takes long: what, how far, how fast, how much longer."""

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text


def progress_bar(show: bool) -> Progress:
    """A bar on stderr where that is a terminal, gone when done; tasks of more than 100 million steps are bytes."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _Rate(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not (show and console.is_terminal), transient=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        if task.speed is None:
            return Text("")
        return Text(f"{task.speed / 1e6:.0f} MB/s" if (task.total or 0) > 1e8 else f"{task.speed:,.0f}/s")
