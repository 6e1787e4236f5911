"""Images per second of the loaders at batch 256.

    python benchmarks/data.py [--images 20000]

The images are the bundled sample's, repeated. Each rate is the median of five epochs, the loaders in turn.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from gmsop.data import PackedDataset, PackedWriter, sample_path, train_loader


def fancy_indexing(dataset: PackedDataset, batch: int) -> int:
    """The plain loop: a permutation, and NumPy's fancy indexing on the memory map."""
    order = np.random.default_rng(0).permutation(len(dataset))
    count = 0
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        count += len(torch.from_numpy(dataset.images[rows]))
    return count


def run(loader) -> int:
    return sum(len(labels) for _, labels in loader)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20000)
    count = parser.parse_args().images
    sample = PackedDataset(sample_path(), "train")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with PackedWriter(root / "set", 64, {"train": count}, sample.class_names, "", "box") as writer:
            for i in range(count):
                writer.add(*sample[i % len(sample)])
        for i in range(count):
            image, label = sample[i % len(sample)]
            file = root / "jpeg" / f"{label}" / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file, quality=90)
        dataset = PackedDataset(root / "set", "train")
        one = next(iter(train_loader(dataset, 256, 0, kind="memmap")))
        two = next(iter(train_loader(dataset, 256, 0, kind="resident")))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True)), "the loaders differ"
        tensor = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()])
        folder_loader = DataLoader(ImageFolder(root / "jpeg", tensor), 256, shuffle=True)
        memmap = train_loader(dataset, 256, 0, kind="memmap")
        workers = train_loader(dataset, 256, 0, num_workers=2, kind="memmap")
        resident = train_loader(dataset, 256, 0, kind="resident")
        ways = {
            "fancy indexing on the map": lambda: fancy_indexing(dataset, 256),
            "memmap": lambda: run(memmap),
            "memmap, 2 workers": lambda: run(workers),
            "resident, on the CPU": lambda: run(resident),
            "ImageFolder of JPEGs": lambda: run(folder_loader),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for epoch in range(6):
            for name, way in ways.items():
                started = time.perf_counter()
                seen = way()
                if epoch:  # the first warms up
                    rates[name].append(seen / (time.perf_counter() - started))
        base = statistics.median(rates["fancy indexing on the map"])
        for name, values in rates.items():
            middle = statistics.median(values)
            print(f"{name:28} {middle:10,.0f} images/s   {middle / base:6.3f} of fancy indexing")


if __name__ == "__main__":
    main()
