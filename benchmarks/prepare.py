"""What `gmsop prepare` costs: seconds and disk per 100,000 images, and most memory.

    python benchmarks/prepare.py [--images 20000] [--kinds npz,pickle,imdb,places365,folder,tiny-imagenet]

The sources are written here in the official formats, from the bundled sample's images, repeated. Those of Downsampled
ImageNet hold all images but ten in one batch: `--images 128126` makes one of the official size. Each kind is prepared
in a process of its own; its memory is the most that it and the processes it starts take together, what they share
counted once. Linux only, whose /proc it reads.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

Images = np.ndarray
GIB = 2**30

CHILD = """
import sys, time
import gmsop.data
from gmsop.cli import main
print("imported", flush=True)
started = time.perf_counter()
assert main(sys.argv[1:]) == 0
print(time.perf_counter() - started)
"""


def memory(process: str) -> int:
    """Bytes of a process and all it has started. A page that n processes share is an nth of a page in each."""
    total = 0
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        for task in Path(f"/proc/{process}/task").iterdir():
            total += sum(map(memory, (task / "children").read_text().split()))
    except OSError:
        pass  # it has ended
    return total


def measured(words: list[str]) -> tuple[float, int, int]:
    """Seconds of `gmsop` with these words, memory once it is imported, most memory."""
    with subprocess.Popen([sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "imported\n"
        libraries = most = memory(str(child.pid))
        while child.poll() is None:
            most = max(most, memory(str(child.pid)))
            time.sleep(0.1)
        return float(child.stdout.read().splitlines()[-1]), libraries, most


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
    # gmsop is not imported here: the libraries would be shared with those measured, and count half.
    where = [sys.executable, "-c", "from gmsop.data import sample_path; print(sample_path())"]
    sample_folder = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    sample = np.load(sample_folder / "images.npy")[:1500]
    images = sample[np.arange(args.images) % len(sample)]
    size = images.nbytes / GIB
    print(f"{args.images:,} images, {size:.2f} GiB at 64 x 64, {os.cpu_count()} processors. Per 100,000:")
    for kind in args.kinds.split(","):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "source")
            source.mkdir()
            command = KINDS[kind](source, images)
            what = source / "imdb.mat" if kind == "imdb" else source
            seconds, libraries, most = measured(["prepare", command, f"--source={what}", f"--out={folder}/set"])
            disk = sum(file.stat().st_size for file in Path(folder, "set").iterdir())
            found = json.loads(Path(folder, "set", "meta.json").read_text())["splits"]
            assert sum(found.values()) == args.images, "images were lost"
        share = 1e5 / args.images
        costs = f"{kind:14} {seconds * share:6.1f} s, {disk * share / 1e9:4.1f} GB of disk; most memory"
        print(f"{costs} {most / GIB:.2f} GiB, {libraries / GIB:.2f} of it the libraries", flush=True)


if __name__ == "__main__":
    main()
