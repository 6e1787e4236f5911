"""Processes that read images beside the one that was started: how they begin, and how they end."""

import gc
import os
import signal
import sys
import threading
import time

START = "fork" if sys.platform == "linux" else "spawn"
"""Forked processes start at once, share the libraries' memory, and see that the process they serve was killed, which
those of a fork server do not. Elsewhere the libraries do not all bear it."""


def follow_parent() -> None:
    """The parent stops its children; when it is killed and cannot, they stop themselves."""
    gc.freeze()  # looking through the libraries' objects would copy the memory shared with the parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def outlive_signals(worker: int = 0) -> None:
    """In a process of a DataLoader: what tells the run to stop, sent to all of its processes, ends the step and not the
    reading for it. The loader itself ends its processes, by SIGTERM if it must."""
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
