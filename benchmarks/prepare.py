"""What `gmsop prepare` costs: seconds and disk per 100,000 images, and most memory.

    python benchmarks/prepare.py [--images 20000] [--kinds npz,pickle,imdb,places365,folder,tiny-imagenet]

The sources are written here in the official formats, from the bundled sample's images, repeated. Those of Downsampled
ImageNet hold all images but ten in one batch: `--images 128126` makes one of the official size. Each kind is prepared
in a process of its own; its memory is what it takes beyond what importing gmsop took, and that of the largest worker
stands beside where images are decoded in several processes. Linux only, whose /proc it reads.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from gmsop.cli.prepare import DECODING
from gmsop.data import PackedDataset, sample_path
from gmsop.data.parts import FEW

Images = np.ndarray
GIB = 2**30

CHILD = """
import glob, sys, threading, time

def peak(process):  # ru_maxrss would count what the starting process had
    try:
        with open(f"/proc/{process}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):  # it has ended
        return 0

def watch():
    while True:
        for file in glob.glob("/proc/self/task/*/children"):
            with open(file) as children:
                workers.update({child: max(peak(child), workers.get(child, 0)) for child in children.read().split()})
        time.sleep(0.1)

if __name__ == "__main__":
    import gmsop.data, torch
    from gmsop.cli import main
    workers = {}
    libraries = peak("self")
    threading.Thread(target=watch, daemon=True).start()
    started = time.perf_counter()
    assert main(sys.argv[1:]) == 0
    seconds = time.perf_counter() - started
    print(f"\\n[{seconds}, {libraries}, {peak('self')}, {max(workers.values(), default=0)}]")
"""


def batches(folder: Path, images: Images, write: Callable[[Path, dict], None]) -> str:
    """All but ten images in the first batch, one in each other."""
    names = [*(f"train_data_batch_{i}" for i in range(1, 11)), "val_data"]
    for i, name in enumerate(names):
        part = images[: len(images) - 10] if i == 0 else images[-i:][:1]
        planes = part.transpose(0, 3, 1, 2).reshape(len(part), -1)
        write(folder / name, {"data": planes, "labels": (np.arange(len(part)) % 1000 + 1).tolist()})
    return "imagenet"


def as_pickle(file: Path, batch: dict) -> None:
    with file.open("wb") as stream:
        pickle.dump(batch, stream, protocol=4)


def as_npz(file: Path, batch: dict) -> None:
    np.savez(file.with_suffix(".npz"), **batch)


def imdb(folder: Path, images: Images) -> str:
    count = len(images)
    with h5py.File(folder / "imdb.mat", "w", userblock_size=512) as file:
        file["images/data"] = images.transpose(0, 3, 2, 1)
        file["images/labels"] = np.arange(count)[:, None] % 1000 + 1.0
        file["images/set"] = np.where(np.arange(count) % 20, 1.0, 2.0)[:, None]
        file["meta/rgbMean"] = np.zeros((3, 1))
    return "imdb"


def save(image: Images, file: Path, side: int = 64) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC).save(file, quality=90)


def places365(folder: Path, images: Images) -> str:
    lines: dict[str, list[str]] = {"train_standard": [], "val": []}
    for i, image in enumerate(images):
        split, name = ("train_standard", f"/a/class_{i % 365}/{i:08d}.jpg") if i % 20 else ("val", f"val_{i:08d}.jpg")
        save(image, folder / ("data_256" if i % 20 else "val_256") / name.lstrip("/"), 256)
        lines[split].append(f"{name} {i % 365}")
    for split, content in lines.items():
        (folder / f"places365_{split}.txt").write_text("\n".join(content))
    (folder / "categories_places365.txt").write_text("\n".join(f"/a/class_{i} {i}" for i in range(365)))
    return "places365"


def class_folders(folder: Path, images: Images) -> str:
    for i, image in enumerate(images):
        save(image, folder / f"class_{i % 100}" / f"{i}.jpg")
    return "folder"


def tiny_imagenet(folder: Path, images: Images) -> str:
    lines = []
    for i, image in enumerate(images):
        wnid = f"n{i % 200:08d}"
        if i % 11 or i < 200:
            save(image, folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG")
        else:
            save(image, folder / "val" / "images" / f"val_{i}.JPEG")
            lines.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t63\t63")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines))
    return "tiny-imagenet"


KINDS: dict[str, Callable[[Path, Images], str]] = {
    "npz": lambda folder, images: batches(folder, images, as_npz),
    "pickle": lambda folder, images: batches(folder, images, as_pickle),
    "imdb": imdb,
    "places365": places365,
    "folder": class_folders,
    "tiny-imagenet": tiny_imagenet,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--kinds", default=",".join(KINDS))
    args = parser.parse_args()
    sample = PackedDataset(sample_path(), "train").images
    images = sample[np.arange(args.images) % len(sample)]
    size = images.nbytes / GIB
    print(f"{args.images:,} images, {size:.2f} GiB at 64 x 64, {os.cpu_count()} processors. Per 100,000:")
    for kind in args.kinds.split(","):
        with tempfile.TemporaryDirectory() as folder:
            source, script = Path(folder, "source"), Path(folder, "child.py")
            source.mkdir()
            script.write_text(CHILD)  # a file: the worker processes import it
            command = KINDS[kind](source, images)
            what = source / "imdb.mat" if kind == "imdb" else source
            words = ["prepare", command, f"--source={what}", f"--out={folder}/set"]
            done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=True)
            seconds, libraries, most, workers = json.loads(done.stdout.splitlines()[-1])
            disk = sum(file.stat().st_size for file in Path(folder, "set").iterdir())
            found = PackedDataset(f"{folder}/set", "train")
            assert len(found) + len(PackedDataset(f"{folder}/set", "val")) == args.images, "images were lost"
        share = 1e5 / args.images
        print(
            f"{kind:14} {seconds * share:6.1f} s, {disk * share / 1e9:4.1f} GB of disk; most memory "
            f"{(most - libraries) / GIB:5.2f} GiB beyond the {libraries / GIB:.2f} of the libraries"
            + (f", {workers / GIB:.2f} in a worker" if command in DECODING and args.images > FEW else ""),
            flush=True,
        )


if __name__ == "__main__":
    main()
