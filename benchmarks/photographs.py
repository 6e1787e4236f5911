"""How fast photographs are read for training: gmsop's loader, timm's, torchvision's ImageFolder, and a packed set.

    python benchmarks/photographs.py FOLDER [--workers 2] [--rounds 5] [--size 224]

FOLDER holds train/CLASS/*.jpg. All use timm's transform (random resized crop, flip, colour jitter) and end with a
normalised float batch on the CPU. First it is checked that without randomness all give the same pixels; then they take
turns, and what is printed is the median of images per second and of the ratio within each round, with its range.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm.data
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from gmsop.data import train_loader
from gmsop.data.data_options import DataOptions
from gmsop.data.labelled_images import find_images
from gmsop.data.photographs import Photographs
from gmsop.data.prepare.class_folders import pack_folder
from gmsop.data.preprocess import Preprocess
from gmsop.data.training_images import find_training_images
from gmsop.data.transforms import Augmentation, evaluation_transform

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    torch.set_num_threads(1)
    check(args.folder, args.size)
    how = Preprocess(args.size, MEAN, STD)
    with tempfile.TemporaryDirectory() as temporary:
        packed = Path(temporary) / "set"
        pack_folder(args.folder, packed, size=256, filter="lanczos")
        runs: dict[str, Callable[[], int]] = {
            "gmsop": ours(str(args.folder), args.size, args.workers, how),
            "timm": timms(args.folder, args.size, args.workers),
            "ImageFolder": torchvisions(args.folder, args.size, args.workers),
            "gmsop, packed at 256": ours(str(packed), args.size, args.workers, how),
        }
        speeds: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():  # files into the system's cache, processes started once
            run()
        for turn in range(args.rounds):
            order = list(runs)[turn % len(runs) :] + list(runs)[: turn % len(runs)]
            for name in order:
                start = time.perf_counter()
                count = runs[name]()
                speeds[name].append(count / (time.perf_counter() - start))
    for name, found in speeds.items():
        ratios = [ours_ / other for ours_, other in zip(speeds["gmsop"], found, strict=True)]
        print(
            f"{name:22} {statistics.median(found):7.1f} images/s ({min(found):.1f} to {max(found):.1f})   gmsop is "
            f"{statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def check(folder: Path, size: int) -> None:
    """All read the same pixels, where nothing is drawn at random and no photograph lies on its side."""
    images = find_images(folder)
    evaluation = evaluation_transform(size, "bilinear", "center", 0.875, MEAN)
    mine, _ = Photographs(images, "x", evaluation, size).batch(np.arange(8))
    theirs = timm.data.create_transform(size, interpolation="bilinear", crop_pct=0.875, use_prefetcher=True)
    files = ImageFolder(str(folder / "train"), theirs)
    for i in range(8):
        assert np.array_equal(mine[i], files[i][0].permute(1, 2, 0).numpy()), "other pixels: nothing is timed"


def ours(data: str, size: int, workers: int, how: Preprocess) -> Callable[[], int]:
    found = find_training_images(data, DataOptions())
    transform = Augmentation(color_jitter=0.4).transform(size, MEAN, how.fit)
    loader: Any = train_loader(Photographs(found.train, "train", transform, size, 0), BATCH, 0, num_workers=workers)
    return lambda: sum(len(how.input(images)) for images, _ in loader)


def timms(folder: Path, size: int, workers: int) -> Callable[[], int]:
    dataset = timm.data.create_dataset("", str(folder), split="train")
    loader = timm.data.create_loader(
        dataset, (3, size, size), BATCH, is_training=True, color_jitter=0.4, interpolation="random", mean=MEAN, std=STD,
        num_workers=workers, device=torch.device("cpu"), persistent_workers=True,
    )  # fmt: skip
    return lambda: sum(len(images) for images, _ in loader)


def torchvisions(folder: Path, size: int, workers: int) -> Callable[[], int]:
    transform = timm.data.create_transform(
        size, is_training=True, color_jitter=0.4, interpolation="random", mean=MEAN, std=STD
    )
    dataset = ImageFolder(str(folder / "train"), transform)
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, persistent_workers=True)
    return lambda: sum(len(images) for images, _ in loader)


if __name__ == "__main__":
    main()
