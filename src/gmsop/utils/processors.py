"""Count the processors that this process may use."""

import os


def available_processors() -> int:
    """Return how many there are: fewer than the machine has where a container or a job's limits say so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
