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
