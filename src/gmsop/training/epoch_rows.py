"""`EpochRows` writes a CSV file with a row per epoch, and keeps the rows, which checkpoints hold, too."""

from collections.abc import Mapping
from pathlib import Path

from gmsop.runs.metrics import Epochs, write_metrics


class EpochRows:
    """Write a row per epoch. Rows that a full disk refused are written after the next epoch.

    Args:
        file: `metrics.csv` or `timing.csv`; None: nothing is written.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.rows: Epochs = {}

    def write(self, epoch: int, row: Mapping[str, float]) -> None:
        """Write the row of `epoch` in place of those of this and later epochs, which a stopped run may have left.

        Raises:
            WriteError: no space, no permission; the row is kept.
        """
        self.rows = {e: values for e, values in self.rows.items() if e < epoch} | {epoch: dict(row)}
        if self.file is not None:
            write_metrics(self.file, self.rows)
