"""Decide whether a Triton kernel runs. It must earn its place: on this very GPU it has been right, and faster.

At the first call of a kind, a kernel and the library path (plain PyTorch) compute the same from the tensors at hand,
the results are compared, and both are timed. The faster right one is taken from then on, and remembered in a file.
"""

import functools
import importlib.util
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor

from gmsop.errors import ConfigError
from gmsop.ops.kernel_decisions import Decision, remember, remembered
from gmsop.ops.torch_private import has_dispatch_mode

T = TypeVar("T")
Mode = Literal["auto", "on", "off"]
log = logging.getLogger("gmsop")

DEVICE_TYPES = ("cuda",)
"""Types of devices that have kernels."""
TOLERANCE = {"tf32x3": 1e-4, "tf32": 2e-2, "bf16": 1e-1}
"""How far the results of kernel and library path may lie apart, relative to their length, by the precision of both."""
ROUNDING = {torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""The same, for results in half precision."""
REPETITIONS = 5

_now: dict[tuple[str, str], Decision] = {}
"""Decisions of this process, by device and call."""
_failed: set[str] = set()


class Call(NamedTuple):
    """Describes calls of a kernel that are alike."""

    kernel: str
    sizes: Mapping[str, int]
    """By name; those that vary from call to call are rounded up to a power of two: see `roughly`."""
    dtype: torch.dtype
    precision: str

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.sizes.items())
        return f"{self.kernel} ({sizes}), {str(self.dtype).removeprefix('torch.')}, {self.precision}"


def roughly(size: int) -> int:
    """Round a size up to a power of two, so that calls of nearly the same size are one kind."""
    return 1 << max(size - 1, 0).bit_length()


def mode() -> Mode:
    """Return `GMSOP_KERNELS`: "auto" (what is measured decides), "on" (without asking) or "off".

    Raises:
        ConfigError: it is something else.
    """
    asked = os.environ.get("GMSOP_KERNELS") or "auto"
    if asked not in get_args(Mode):
        raise ConfigError(f"GMSOP_KERNELS must be auto, on or off, got {asked!r}")
    return asked  # type: ignore[return-value]


@functools.cache
def usable(device: torch.device) -> bool:
    """Return whether the kernels can run on tensors of `device`.

    They need CUDA of compute capability 8.0 or more (Ampere), and Triton. If a CUDA device cannot run them, one line is
    logged at INFO.
    """
    if device.type != "cuda":
        return False
    reason = ""
    if importlib.util.find_spec("triton") is None:
        reason = "Triton is not installed"
    elif torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        reason = (
            f"they need an NVIDIA GPU of compute capability 8.0, and this is a {torch.cuda.get_device_name(device)}"
        )
    if reason:
        log.info("gmsop's Triton kernels are not used on %s: %s", device, reason)
    return not reason


def choose(call: Call, x: Tensor, results: Callable[[bool], Sequence[Tensor]]) -> bool:
    """Return whether the kernel is to be used for this call.

    Where nothing is known of calls of this kind, both ways are tried now; except while a CUDA graph is captured, a
    compiler or tracer looks on, or operations must be deterministic: then it is False, and the next call may decide.

    Args:
        x: a tensor of the call.
        results: computes the call by the kernel (True) or by the library path (False).

    Raises:
        ConfigError: `GMSOP_KERNELS` is neither auto, on nor off.
    """
    if call.dtype == torch.float64 or not usable(x.device):
        return False
    if (asked := mode()) != "auto":
        return asked == "on"
    found = known(call, x.device)
    if found is None and _may_measure(x):
        found = _measure(call, x.device, results)
        if found is not None:
            _now[name_of(x.device), str(call)] = found
            log.info("gmsop's kernel %s on %s: %s", call, name_of(x.device), found)
            remember(name_of(x.device), str(call), found)
    return found is not None and found.kernel


def known(call: Call, device: torch.device) -> Decision | None:
    """Return the decision about calls of this kind, of this process or an earlier one; None if there is none."""
    key = name_of(device), str(call)
    return _now.get(key) or _before(key[0]).get(key[1])


def known_for_all(calls: Iterable[Call], device: torch.device) -> bool:
    """Return whether the kernel was chosen for every one of these calls about which there is a decision.

    False without any. Compiled code asks this, for which nothing can be tried, and which runs at many sizes.

    Raises:
        ConfigError: `GMSOP_KERNELS` is neither auto, on nor off.
    """
    if not usable(device):
        return False
    if (asked := mode()) != "auto":
        return asked == "on"
    found = [decision for call in calls if (decision := known(call, device))]
    return bool(found) and all(decision.kernel for decision in found)


@functools.cache
def _before(gpu: str) -> dict[str, Decision]:
    return remembered(gpu)


def name_of(device: torch.device) -> str:
    """Return the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _may_measure(x: Tensor) -> bool:
    """Return whether a call may be tried and timed: it is an eager one with real numbers, which nobody records."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.are_deterministic_algorithms_enabled():  # type: ignore[attr-defined]
        return False
    if type(x) not in (Tensor, torch.nn.Parameter) or x.is_meta or x.numel() == 0 or has_dispatch_mode():
        return False
    return x.device.type != "cuda" or not torch.cuda.is_current_stream_capturing()


def _measure(call: Call, device: torch.device, results: Callable[[bool], Sequence[Tensor]]) -> Decision | None:
    """Compare and time both ways; None if the numbers at hand, or the memory left, do not allow it."""
    with torch.no_grad():
        try:
            expected = results(False)
            lengths = [float(torch.linalg.vector_norm(t, dtype=torch.float32)) for t in expected]
            if not all(0 < length < float("inf") for length in lengths):
                return None
            try:
                found = results(True)
                _synchronise(device)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                reason = (str(error).splitlines() or [""])[0]
                return Decision(False, f"the kernel does not run: {type(error).__name__}: {reason}"[:300])
            for a, b, length in zip(found, expected, lengths, strict=True):
                allowed = max(TOLERANCE[call.precision], ROUNDING.get(b.dtype, 0.0))
                apart = float(torch.linalg.vector_norm(a.float() - b.float())) / length
                if a.shape != b.shape or a.dtype != b.dtype or not apart <= allowed:
                    return Decision(False, f"the kernel is wrong: {apart:.1e} from the library path")
            del found, expected
            times = [
                (_milliseconds(device, results, True), _milliseconds(device, results, False))
                for _ in range(REPETITIONS)
            ]
        except torch.OutOfMemoryError:
            return None
    kernel, library = (min(column) for column in zip(*times, strict=True))
    return Decision(kernel < library, "", kernel, library)


def _milliseconds(device: torch.device, results: Callable[[bool], Sequence[Tensor]], by_kernel: bool) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        results(by_kernel)
        return 1000 * (time.perf_counter() - start)
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with torch.cuda.device(device):
        first.record()
        results(by_kernel)
        last.record()
        last.synchronize()
    return first.elapsed_time(last)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def attempt(name: str, precision: str, run: Callable[[], T], x: Tensor) -> T | None:
    """Return what the kernel in `run` computes, or None if it does not run on this GPU.

    A kernel that does not compile, or does not fit, costs one warning and speed, not the run. It is not tried again for
    features, `x` (B, C, M), of that dtype and number of channels. Running out of memory is raised as ever.
    """
    name = f"{name} of {x.shape[1]} channels in {str(x.dtype).removeprefix('torch.')}, {precision},"
    if name in _failed:
        return None
    try:
        with torch.cuda.device_of(x):  # Triton launches on the current device, not on that of its tensors
            return run()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        _failed.add(name)
        log.warning("gmsop's kernel %s does not run here, going on without it: %s", name, error)
        return None
