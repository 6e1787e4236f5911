"""Decide how the processes that read images start, and when they end."""

import gc
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gmsop.errors import DataError

START = "fork" if sys.platform == "linux" else "spawn"
"""How they start. Forked processes start at once, share the libraries' memory, and notice when the process they serve
is killed; those of a fork server do not notice. On systems other than Linux, some libraries do not survive a fork."""


def follow_parent() -> None:
    """End this process when its parent is gone. A parent stops its children itself, unless it is killed."""
    gc.freeze()  # garbage collection would touch, and so copy, the memory shared with the parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def outlive_signals(worker: int = 0) -> None:
    """Ignore stop signals in a DataLoader's worker process, so that the main process can finish its step.

    Such signals reach all processes of a run. The loader ends its workers itself, by SIGTERM if it must: only a SIGTERM
    from the parent counts.
    """
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    parent = os.getppid()

    def watch() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def deaths_in_words(hint: str = "") -> Iterator[None]:
    """Say in one line which process that reads images died, and of what.

    PyTorch raises its error wherever the main process is at that moment.

    Args:
        hint: what to do afterwards.

    Raises:
        DataError: a process died.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(.*)", str(error))
        if found is None:
            raise
        how = found[2].strip().partition(". ")[0].rstrip(". ") or "died"
        text = f"a process that reads images (pid {found[1]}) {how}"
        if "Killed" in how or "exited" in how:
            text += "; the system kills processes when memory runs out: fewer --num_workers need less"
        raise DataError(f"{text}. {hint}".rstrip(". ")) from None
