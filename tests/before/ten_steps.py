"""Ten steps of a published row's recipe, on eight images a step, told by a number and a checksum of the weights.

python tests/before/ten_steps.py        # writes ten_steps.json, from the version that is installed
"""

import hashlib
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gmsop.data import PackedWriter
from gmsop.runs.environment import describe_environment
from gmsop.training.recipe import load_recipe, recipe_names
from gmsop.training.run import train
from gmsop.weights import load_model

FILE = Path(__file__).with_suffix(".json")
ROWS = [name for name in recipe_names() if name.startswith(("imagenet64/", "places365/"))]


def machine() -> dict[str, str]:
    """On another processor, or another version of PyTorch, sums may be in another order."""
    found = describe_environment()
    if not Path("/proc/cpuinfo").is_file():
        return {"processor": found["processor"]}
    flags = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")][:1]
    return {
        "processor": found["processor"],
        "instructions": hashlib.sha256("".join(flags).encode()).hexdigest()[:16],
        "torch": found["packages"]["torch"],
    }


def ten_steps(name: str, folder: Path) -> dict[str, float | str]:
    """Return the mean loss of the steps, the validation loss after them, and a checksum of all weights then."""
    recipe = load_recipe(name)
    threads = torch.get_num_threads()
    draw = np.random.default_rng(0)
    size = recipe.image_size
    with PackedWriter(folder / "set", size, {"train": 40, "val": 4}, ["a", "b"], "random", "box") as writer:
        for i in range(44):
            writer.add(draw.integers(0, 128, (size, size, 3), np.uint8) + np.uint8(60 * (i % 2)), i % 2)
    recipe = replace(recipe, epochs=[2 if recipe.flip != "both" else 1], batch_size=8, warmup_epochs=0)
    torch.set_num_threads(1)
    try:
        run = train(recipe, folder / "set", folder / "run", accelerator="cpu", devices=1)
    finally:
        torch.set_num_threads(threads)
    mark = hashlib.sha256()
    for key, value in sorted(load_model(run.folder / "last.ckpt").state_dict().items()):
        mark.update(key.encode() + value.contiguous().numpy().tobytes())
    rows = (run.folder / "metrics.csv").read_text().splitlines()
    last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    return {"train/loss": float(last["train/loss"]), "val/loss": run.result.loss, "weights": mark.hexdigest()}


if __name__ == "__main__":
    rows = {}
    for row in sys.argv[1:] or ROWS:
        with tempfile.TemporaryDirectory() as temporary:
            rows[row] = ten_steps(row, Path(temporary))
        print(row, rows[row], flush=True)
    FILE.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
