"""Messages to the user, from the first process of a run alone."""

import os
import sys
import warnings

from lightning.pytorch.utilities import rank_zero_only

from gmsop.errors import TrainingWarning


def is_first_process() -> bool:
    """Whether this process is the one of its run that prints and writes."""
    if getattr(rank_zero_only, "rank", 0):
        return False
    machine = os.environ.get("NODE_RANK", "0") if "RANK" not in os.environ else "0"  # Lightning's own launcher
    return machine in ("", "0")


def warn(text: str) -> None:
    """A `TrainingWarning`, on the first rank alone."""
    if is_first_process():
        warnings.warn(text, TrainingWarning, stacklevel=2)


def say(text: str) -> None:
    """A line on stderr, from the first rank alone; also from a signal's handler."""
    if is_first_process():
        print(f"\ngmsop: {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
