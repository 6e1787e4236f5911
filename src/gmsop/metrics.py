"""`metrics.csv`: one row per epoch of a run, that a resumed run goes on with."""

import csv
from collections.abc import Mapping
from pathlib import Path

from gmsop.files import writing

Epochs = dict[int, dict[str, float]]


def read_metrics(path: str | Path) -> Epochs:
    """Epoch (from 0) to the values logged in it."""
    with Path(path).open(newline="") as file:
        return {
            int(row["epoch"]): {k: float(v) for k, v in row.items() if k != "epoch" and v}
            for row in csv.DictReader(file)
        }


def log_epoch(path: str | Path, epoch: int, values: Mapping[str, float]) -> None:
    """Write the row of `epoch`. Later rows, of a run that was stopped and is resumed from before them, go.

    The file is replaced whole: a crash leaves the old one or the new one.

    Raises:
        WriteError: no space, no permission.
    """
    path = Path(path)
    rows: Epochs = read_metrics(path) if path.exists() else {}
    rows = {e: row for e, row in rows.items() if e < epoch} | {epoch: dict(values)}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    with writing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", *names])
        writer.writeheader()
        writer.writerows({"epoch": e, **row} for e, row in sorted(rows.items()))
