"""The packed set that the run in this folder was trained on, made anew wherever it is needed."""

from pathlib import Path

import numpy as np

from gmsop.data import PackedWriter


def make_set(path: Path) -> None:
    draw = np.random.default_rng(0)
    counts = {"train": 48, "val": 12}
    with PackedWriter(path, 32, counts, ["a", "b", "c"], "random", "box") as writer:
        for i in range(60):
            writer.add(draw.integers(0, 128, (32, 32, 3), np.uint8) + np.uint8(40 * (i % 3)), i % 3)
