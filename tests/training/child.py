"""Processes that may be killed, forked from one that has imported everything: an import of PyTorch takes seconds."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["gmsop.training.run", "gmsop.cli", "killed"])


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


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def be_rank(rank: int, port: int) -> None:
    """Make this process one of two on one machine, as `torchrun` would start it."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank))
    os.environ.update(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", GROUP_RANK="0", TORCHELASTIC_RUN_ID="test")
