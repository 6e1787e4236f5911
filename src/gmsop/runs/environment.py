"""Record on what, with what and from which sources a run was started: `environment.json`, one entry per start."""

import json
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gmsop.runs.git_state import git_state
from gmsop.utils.files import writing

KINDS = {"time": str, "command": list, "machine": str, "processor": str, "threads": int, "gpus": list, "python": str,
         "packages": dict, "data": str, "processes": int}  # fmt: skip
"""Types of an entry's values, except those that may be None."""
LARGEST = 2**26
"""Bytes of a record that is read."""
PACKAGES = ("gmsop", "torch", "torchvision", "lightning", "timm", "triton", "numpy")


def describe_environment() -> dict[str, Any]:
    """Return hardware, versions, the command, and the git states of the working directory and of gmsop's files."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "machine": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "git": git_state(Path.cwd()),
        "gmsop_git": git_state(Path(__file__).parent, tracked=Path(__file__).name),
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


def note_start(file: Path, **more: Any) -> None:
    """Add an entry to `file` for this start of the run.

    Raises:
        WriteError: there is no space or no permission.
    """
    with writing(file) as temporary:
        temporary.write_text(json.dumps([*read_starts(file), describe_environment() | more], indent=1))


def read_starts(file: Path) -> list[dict[str, Any]]:
    """Return the entries, oldest first, without those that are not as `note_start` writes them.

    A missing or damaged file has none.
    """
    try:
        if not file.is_file() or file.stat().st_size > LARGEST:
            return []
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return [entry for entry in entries if _is_start(entry)] if isinstance(entries, list) else []


def _is_start(entry: Any) -> bool:
    if not isinstance(entry, dict) or not all(type(entry.get(key)) is kind for key, kind in KINDS.items()):
        return False
    texts = [*entry["command"], *entry["gpus"], *entry["packages"].values(), entry.get("wandb") or ""]
    resumed, states = entry.get("resumed"), (entry.get("git"), entry.get("gmsop_git"))
    return (
        all(isinstance(text, str) for text in texts)
        and (resumed is None or (isinstance(resumed, dict) and {"step", "checkpoint"} <= set(resumed)))
        and all(state is None or _is_git_state(state) for state in states)
    )


def _is_git_state(state: Any) -> bool:
    if not isinstance(state, dict) or not isinstance(state.get("commit"), str) or "changed" not in state:
        return False
    changed = state["changed"]
    return changed is None or (isinstance(changed, list) and all(isinstance(name, str) for name in changed))
