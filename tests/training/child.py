"""Processes that may be killed, forked from one that has imported everything: an import of PyTorch takes seconds."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["gmsop.training", "gmsop.cli", "killed"])


def run_child(log: Path, target: Callable[..., Any], *args: Any) -> tuple[int, str]:
    """Call `target(*args)` in a process of its own; its exit status (negative: the signal) and what it printed."""
    process = CONTEXT.Process(target=_call, args=(log, target, args))
    process.start()
    process.join(200)
    assert process.exitcode is not None, "the process hangs"
    return process.exitcode, log.read_text()


def _call(log: Path, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)
    target(*args)
