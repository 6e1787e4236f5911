"""`EpochRows` writes the rows of `metrics.csv`, and keeps them while they cannot be written."""

from collections.abc import Mapping
from pathlib import Path

from gmsop.runs.metrics import log_epoch


class EpochRows:
    """Write a row per epoch. Rows that a full disk refused are written after the next epoch.

    Args:
        file: `metrics.csv`; None: nothing is written.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._unwritten: dict[int, Mapping[str, float]] = {}

    def write(self, epoch: int, row: Mapping[str, float]) -> None:
        """Write the row of `epoch`, and those that are still unwritten.

        Raises:
            WriteError: no space, no permission; the rows are kept.
        """
        if self.file is None:
            return
        self._unwritten[epoch] = row
        for each in sorted(self._unwritten):
            log_epoch(self.file, each, self._unwritten[each])
        self._unwritten.clear()
