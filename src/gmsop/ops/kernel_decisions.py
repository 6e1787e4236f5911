"""Remember which kernels were right and faster on a GPU: one small file a GPU, in the cache folder."""

import functools
import hashlib
import json
import logging
import math
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gmsop.errors import GmsopError
from gmsop.utils.cache import cache_folder
from gmsop.utils.files import writing

log = logging.getLogger("gmsop")


class Decision(NamedTuple):
    """Says whether a kernel is used, and why."""

    kernel: bool
    reason: str
    """Why not, where times are not the reason."""
    kernel_ms: float = math.nan
    library_ms: float = math.nan

    def __str__(self) -> str:
        if self.reason:
            return f"library path, since {self.reason}"
        taken = "kernel" if self.kernel else "library path"
        return f"{taken} (kernel {self.kernel_ms:.3f} ms, library path {self.library_ms:.3f} ms)"


def decisions_file(gpu: str) -> Path:
    """Return the file for GPUs of that name.

    Raises:
        ConfigError: the user has no cache folder.
    """
    return cache_folder() / "kernels" / f"{re.sub('[^A-Za-z0-9]+', '-', gpu)}.json"


def remembered(gpu: str) -> dict[str, Decision]:
    """Return the decisions in the file, by call; none of them if the file is damaged or of other versions."""
    try:
        file = decisions_file(gpu)
        if file.stat().st_size > 1 << 20:
            return {}
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["versions"] != versions():
            return {}
        found = {str(call): _decision(values) for call, values in content["decisions"].items()}
        return {call: decision for call, decision in found.items() if decision is not None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, GmsopError):
        return {}


def remember(gpu: str, call: str, decision: Decision) -> None:
    """Add a decision to the file. Where it cannot be written, the next process decides again."""
    try:
        found = remembered(gpu) | {call: decision}
        content = {"gpu": gpu, "versions": versions(), "decisions": {k: v._asdict() for k, v in found.items()}}
        with writing(decisions_file(gpu)) as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    except (OSError, GmsopError) as error:
        log.info("which kernels to use is not remembered: %s", error)


@functools.cache
def versions() -> dict[str, str]:
    """Return what a decision depends on: libraries, driver interface and the kernels' own text."""
    own = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        own.update(file.read_bytes())
    return {
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cuda": str(torch.version.cuda),
        "kernels": own.hexdigest()[:16],
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _decision(values: Any) -> Decision | None:
    fits = (
        isinstance(values, dict)
        and set(values) == set(Decision._fields)
        and type(values["kernel"]) is bool
        and isinstance(values["reason"], str)
        and all(isinstance(values[key], float) for key in ("kernel_ms", "library_ms"))
    )
    return Decision(**values) if fits else None
