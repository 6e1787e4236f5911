"""Images per second of whole trainings by recipe: loader, augmentation, step, checks, logs and checkpoints.

    python benchmarks/train.py [--models gap_resnet18 gm_sop_16_8_resnet18] [--images 25600] [--batch 256] [--epochs 4]

On random images of 64 x 64 in a thousand classes, with flips, in bfloat16 and channels last, on a GPU compiled and with
the set in its memory; without one by default 512 images at batch 64. Each rate is the median of the epochs after the
first; "ratio" is to the first model's.
"""

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from gmsop.data import PackedWriter
from gmsop.runs.metrics import read_metrics
from gmsop.training.recipe import load_recipe
from gmsop.training.run import train


def random_set(path: Path, images: int, batch: int) -> Path:
    rng = np.random.default_rng(0)
    names = [f"{i:04}" for i in range(1000)]
    with PackedWriter(path, 64, {"train": images, "val": batch}, names, "random", "box") as writer:
        for split, count in (("train", images), ("val", batch)):
            pixels = rng.integers(0, 256, (count, 64, 64, 3), np.uint8)
            writer.add_batch(pixels, rng.integers(0, 1000, count), split)
    return path


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["gap_resnet18", "gm_sop_16_8_resnet18"])
    parser.add_argument("--images", type=int, default=25600 if cuda else 512)
    parser.add_argument("--batch", type=int, default=256 if cuda else 64)
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error("--epochs: at least 2, since the first one warms up")
    where = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, {torch.__version__}, batch {args.batch}, bf16-mixed, channels last{', compiled' if cuda else ''}")
    base = 0.0
    with tempfile.TemporaryDirectory() as folder:
        data = random_set(Path(folder) / "set", args.images, args.batch)
        for model in args.models:
            recipe = dataclasses.replace(
                load_recipe("imagenet64/gm_sop_16_8_resnet18"), model=model, epochs=args.epochs, batch_size=args.batch,
                lr=0.01, flip="random", precision="bf16-mixed", channels_last=True, compile=cuda,
            )  # fmt: skip
            run = train(recipe, data, Path(folder) / model)
            rows = read_metrics(run.folder / "timing.csv")
            rates = [row["images_per_second"] for epoch, row in sorted(rows.items()) if epoch]
            middle = statistics.median(rates)
            base = base or middle
            spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
            print(f"{model:24} {middle:10,.0f} images/s   {spread:20} ratio {middle / base:.2f}", flush=True)


if __name__ == "__main__":
    main()
