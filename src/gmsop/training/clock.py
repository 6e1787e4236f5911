"""An `EpochClock` measures an epoch: seconds, over all starts of the run, and images per second."""

import math
import time
from pathlib import Path

from gmsop.training.epoch_rows import EpochRows

TIMING = "timing.csv"
"""Wall-clock times of a run, apart from metrics.csv because they differ between identical runs. The unfinished epoch's
row has `train_seconds` only, up to its checkpoint."""


class EpochClock:
    """Measure the training of an epoch, without its validation.

    Args:
        file: `timing.csv`; None: nothing is written.
    """

    def __init__(self, file: Path | None) -> None:
        self.rows = EpochRows(file)
        self.speed = math.nan
        """Images per second of the epoch under way."""
        self.train_seconds = 0.0
        """Training time of the epoch that was validated last."""
        self._before, self._passes = 0.0, 0
        self._started = time.perf_counter()

    def begin(self) -> None:
        """Start measuring, at the beginning of an epoch or where a run enters one."""
        self._started, self._passes = time.perf_counter(), 0

    def enter(self, epoch: int) -> None:
        """Count the time that an epoch had taken when the run was stopped within it."""
        row = self.rows.rows.get(epoch, {})
        self._before = 0.0 if "val_seconds" in row else row.get("train_seconds", 0.0)

    def begin_pass(self) -> None:
        """Count a pass."""
        self._passes += 1

    def end_pass(self, images: float) -> None:
        """Set `speed`, for passes of `images` images each."""
        self.speed = self._passes * images / (time.perf_counter() - self._started)

    def seconds(self) -> float:
        """Return the training time of the epoch so far, over all starts of the run."""
        return self._before + time.perf_counter() - self._started

    def end(self) -> None:
        """Keep the epoch's training time as `train_seconds`; validation follows."""
        self.train_seconds, self._before = self.seconds(), 0.0

    def write_place(self, epoch: int) -> None:
        """Write the unfinished epoch's time, with a checkpoint.

        Raises:
            WriteError: no space, no permission.
        """
        self.rows.write(epoch, {"train_seconds": self.seconds()})

    def write(self, epoch: int, val_seconds: float) -> None:
        """Write a finished epoch's times.

        Raises:
            WriteError: no space, no permission.
        """
        row = {"train_seconds": self.train_seconds, "images_per_second": self.speed, "val_seconds": val_seconds}
        self.rows.write(epoch, row)
