"""Time candidates in turn, round after round, so that drift hits them alike, after checking that they are correct."""

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from gmsop.errors import GmsopError


class WrongResultError(GmsopError):
    """A candidate does not compute what it is timed for."""


@dataclass
class Measurement:
    """Holds the figures of one candidate in one case."""

    case: str
    candidate: str
    error: float
    """Largest relative error of output and gradients against float64; for a training step, 0 if its loss is finite."""
    milliseconds: float
    """Median over the rounds."""
    spread: float
    """Half the distance between the quartiles of the rounds, in milliseconds."""
    peak_mib: float
    """Most memory taken at once beyond what was there before."""
    ratio: float
    """Speed relative to the first candidate: the median, over the rounds, of the first one's time over this one's."""
    note: str = ""
    """What else is to be said of the candidate."""

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


def compare(
    case: str,
    candidates: Mapping[str, Callable[[], Any]],
    errors: Mapping[str, float],
    bounds: Mapping[str, float],
    device: torch.device,
    rounds: int = 15,
) -> list[Measurement]:
    """Time `candidates` side by side; the first is the baseline of the ratios.

    Raises:
        WrongResultError: an error exceeds its bound or is NaN; nothing is timed then.
    """
    for name, bound in bounds.items():
        if not errors[name] <= bound:
            raise WrongResultError(
                f"{case}: {name} is off by {errors[name]:.1e}, allowed is {bound:.1e}; nothing was timed"
            )
    peaks = {name: peak_memory(run, device) for name, run in candidates.items()}
    for _ in range(2):
        for run in candidates.values():
            seconds(run, device)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            times[name].append(1e3 * seconds(run, device))
    base = times[next(iter(candidates))]
    rows = []
    for name, own in times.items():
        low, _, high = statistics.quantiles(own, n=4)
        ratio = statistics.median(b / t for b, t in zip(base, own, strict=True))
        rows.append(
            Measurement(case, name, errors.get(name, 0.0), statistics.median(own), (high - low) / 2, peaks[name], ratio)
        )
    return rows


def make_current(device: torch.device) -> torch.device:
    """Make the device the one whose time and memory are measured; return it with its number."""
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        torch.cuda.set_device(device)
    return device


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Return how many seconds one call of `run` takes."""
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def peak_memory(run: Callable[[], Any], device: torch.device) -> float:
    """Return the most memory that `run` takes at once, in MiB, beyond what is taken when it begins."""
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    activities = [torch.profiler.ProfilerActivity.CPU]
    with _silent_stderr(), torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    assert profile.profiler is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Silence stderr, because the profiler's library writes there what it does, and no setting stops it."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of `expected`, computed in float64."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return ((found - expected).norm() / expected.norm()).item()
