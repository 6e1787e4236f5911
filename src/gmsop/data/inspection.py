"""Say what a packed set holds: sizes, balance, statistics, images that are in both splits; and draw a sheet of them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from gmsop.data.packed import PackedDataset, read_meta
from gmsop.utils.files import writing
from gmsop.utils.progress import progress_bar


@dataclass
class Inspection:
    """Holds the findings of `inspect_set`.

    Attributes:
        class_counts: for each split, the number of images of every class, in the order of `class_names`.
        duplicates: pairs (index in train, index in val) of images equal in every pixel; each val image occurs once.
        bytes: size of images and labels on the disk.
    """

    class_names: list[str]
    class_counts: dict[str, list[int]]
    rgb_mean: list[float]
    rgb_std: list[float]
    duplicates: list[tuple[int, int]]
    bytes: int


def inspect_set(path: str | Path, progress: bool = False) -> Inspection:
    """Read a whole packed set once and return what it holds.

    Raises:
        DataError: there is no packed set at `path`, or it is damaged.
    """
    meta = read_meta(path)
    splits = {split: PackedDataset(path, split) for split in meta["splits"]}
    names = list(meta["class_names"])
    first_seen: dict[bytes, int] = {}
    duplicates = []
    with progress_bar(progress) as bar:
        task = bar.add_task("reading", total=sum(map(len, splits.values())))
        for split, dataset in splits.items():
            for i in range(len(dataset)):
                mark = hashlib.blake2b(np.ascontiguousarray(dataset.images[i]).data, digest_size=16).digest()
                if split == "train":
                    first_seen.setdefault(mark, i)
                elif mark in first_seen:
                    duplicates.append((first_seen[mark], i))
                bar.advance(task)
    counts = {split: np.bincount(d.labels, minlength=len(names)).tolist() for split, d in splits.items()}
    size = sum((Path(path) / name).stat().st_size for name in ("images.npy", "labels.npy"))
    return Inspection(names, counts, list(meta["rgb_mean"]), list(meta["rgb_std"]), duplicates, size)


def contact_sheet(path: str | Path, file: str | Path, split: str = "train", count: int = 48, seed: int = 0) -> None:
    """Write a PNG of `count` images drawn at random, eight per row, each with its class name below.

    Raises:
        DataError: there is no packed set at `path`, or it has no such split.
        WriteError: `file` cannot be written.
    """
    dataset = PackedDataset(path, split, verify=False)
    drawn = np.random.default_rng(seed).permutation(len(dataset))[:count]
    side, line, columns = max(96, dataset.image_size), 14, 8
    rows = -(-max(1, len(drawn)) // columns)
    sheet = Image.new("RGB", (columns * (side + 4), rows * (side + line + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(drawn.tolist()):
        pixels, label = dataset[index]
        left, top = place % columns * (side + 4) + 2, place // columns * (side + line + 4) + 2
        sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST), (left, top))
        name = dataset.class_names[label].encode("ascii", "replace").decode()  # Pillow's font may lack other letters
        draw.text((left, top + side + 1), name[: side // 6], fill="black")
    with writing(file) as temporary:
        sheet.save(temporary, format="PNG")
