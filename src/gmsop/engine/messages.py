"""Print messages to the user, from the first process of a run alone."""

import os
import sys
import warnings

from lightning.pytorch.utilities import rank_zero_only

from gmsop.errors import TrainingWarning


def is_first_process() -> bool:
    """Return True if this process is the one of its run that prints and writes."""
    if getattr(rank_zero_only, "rank", 0) or os.environ.get("RANK", "0") not in ("", "0"):
        return False
    # Lightning's own launcher sets no RANK, and counts the processes of each machine from 0.
    machine = os.environ.get("NODE_RANK", "0") if "RANK" not in os.environ else "0"
    return machine in ("", "0")


def warn(text: str) -> None:
    """Issue a `TrainingWarning`, from the first process alone."""
    if is_first_process():
        warnings.warn(text, TrainingWarning, stacklevel=2)


def say(text: str) -> None:
    """Print a line on stderr, from the first process alone. A signal's handler may call it, too."""
    if is_first_process():
        print(f"\ngmsop: {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Format seconds as hours and minutes, as minutes and seconds, or as seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
