"""On what, with what, and from which sources a run was started: `environment.json`, one entry per start."""

import json
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gmsop.files import writing

PACKAGES = ("gmsop", "torch", "torchvision", "lightning", "timm", "triton", "numpy")


def describe_environment() -> dict[str, Any]:
    """Hardware, versions, the command, and the git state of the working directory."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "machine": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "git": _git_state(Path.cwd()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, and whether files differ from it; None outside a repository, or without git."""
    try:
        commit, changes = (
            subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True, timeout=10).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "changed": [line[3:] for line in changes.splitlines()]}


def note_start(file: Path, **more: Any) -> None:
    """Add an entry, for this start of the run.

    Raises:
        WriteError: no space, no permission.
    """
    try:
        starts = json.loads(file.read_text())
    except (OSError, ValueError):
        starts = []
    with writing(file) as temporary:
        temporary.write_text(json.dumps([*starts, describe_environment() | more], indent=1))
