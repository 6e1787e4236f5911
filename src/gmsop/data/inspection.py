"""Say what a packed set holds: sizes, balance, statistics, images that are in both splits; and draw a sheet of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from gmsop.data.duplicates import Equal, count_equal, equal_groups, mark_images
from gmsop.data.packed import PackedDataset, read_meta
from gmsop.utils.files import writing
from gmsop.utils.progress import progress_bar


@dataclass(frozen=True)
class Place:
    """Says where an image stands in a packed set."""

    split: str
    index: int
    class_name: str
    file: str | None
    """The name of its file, if the set knows it."""

    def __str__(self) -> str:
        what = f"{self.split} {self.index}" if self.file is None else f"{self.split} {self.index}, {self.file}"
        return f"{what} ({self.class_name})"


@dataclass
class Inspection:
    """Holds the findings of `inspect_set`."""

    class_names: list[str]
    class_counts: dict[str, list[int]]
    """For each split, the number of images of every class, in the order of `class_names`."""
    rgb_mean: list[float]
    rgb_std: list[float]
    equal_images: list[list[Place]]
    """Images equal in every pixel, a list per kind, those of train first."""
    equal: Equal
    """How many they are."""
    bytes: int
    """Size of images and labels on the disk."""

    @property
    def duplicates(self) -> list[tuple[int, int]]:
        """Return pairs (index in train, index in val) of equal images; each val image occurs once."""
        return sorted(
            ((group[0].index, place.index) for group in self.equal_images for place in group if place.split == "val"
             and group[0].split == "train"),
            key=lambda pair: pair[1],
        )  # fmt: skip


def inspect_set(path: str | Path, progress: bool = False) -> Inspection:
    """Read a whole packed set once and return what it holds.

    Raises:
        DataError: there is no packed set at `path`, or it is damaged.
    """
    meta = read_meta(path)
    splits = {split: PackedDataset(path, split) for split in meta["splits"]}
    names = list(meta["class_names"])
    marks = []
    with progress_bar(progress) as bar:
        task = bar.add_task("reading", total=sum(map(len, splits.values())))
        for dataset in splits.values():
            for start in range(0, len(dataset), 256):
                marks.append(mark_images(dataset.images[start : start + 256]))
                bar.advance(task, len(marks[-1]))
    places = []
    files = {split: dataset.file_names() for split, dataset in splits.items()}
    for split, dataset in splits.items():
        places += [(split, i) for i in range(len(dataset))]
    groups = equal_groups(np.concatenate(marks)) if marks else []

    def place(number: int) -> Place:
        split, i = places[number]
        known = files[split]
        return Place(split, i, names[int(splits[split].labels[i])], None if known is None else known[i])

    labels = np.concatenate([dataset.labels for dataset in splits.values()])
    equal = count_equal(groups, labels, meta["splits"].get("train", 0))
    counts = {split: np.bincount(d.labels, minlength=len(names)).tolist() for split, d in splits.items()}
    size = sum((Path(path) / name).stat().st_size for name in ("images.npy", "labels.npy"))
    found = [[place(number) for number in group] for group in groups]
    return Inspection(names, counts, list(meta["rgb_mean"]), list(meta["rgb_std"]), found, equal, size)


def contact_sheet(path: str | Path, file: str | Path, split: str = "train", count: int = 48, seed: int = 0) -> None:
    """Write a PNG of `count` images drawn at random, eight per row, each with its class name below.

    Raises:
        DataError: there is no packed set at `path`, or it has no such split.
        WriteError: `file` cannot be written.
    """
    dataset = PackedDataset(path, split, verify=False)
    drawn = np.random.default_rng(seed).permutation(len(dataset))[:count]
    names = [dataset.class_names[dataset.labels[index]] for index in drawn]
    draw_sheet([dataset.images[index] for index in drawn], names, file)


def draw_sheet(images: Sequence[NDArray[np.uint8]], names: Sequence[str], file: str | Path) -> None:
    """Write a PNG of images (S, S, 3) uint8, eight per row, each with a name below.

    Raises:
        WriteError: `file` cannot be written.
    """
    side, line, columns = max([96, *(len(image) for image in images[:1])]), 14, 8
    rows = -(-max(1, len(images)) // columns)
    sheet = Image.new("RGB", (columns * (side + 4), rows * (side + line + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (pixels, said) in enumerate(zip(images, names, strict=True)):
        left, top = place % columns * (side + 4) + 2, place // columns * (side + line + 4) + 2
        sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST), (left, top))
        name = said.encode("ascii", "replace").decode()  # Pillow's font may lack other letters
        draw.text((left, top + side + 1), name[: side // 6], fill="black")
    with writing(file) as temporary:
        sheet.save(temporary, format="PNG")
