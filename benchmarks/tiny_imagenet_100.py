"""The 100 classes of Tiny-ImageNet that RESULTS.md reports on, as a list for `gmsop prepare folder`.

    python benchmarks/tiny_imagenet_100.py tiny-imagenet-200 tiny100.csv [--per_class 500]
    gmsop prepare folder --source tiny100.csv --out tiny64 --size 64

Of each class the training images numbered 0 to per_class - 1, and the validation images. Files that are equal to an
earlier one are left out.
"""

import argparse
import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path


def images(source: Path, wnids: list[str], per_class: int) -> Iterator[tuple[Path, str, str]]:
    for wnid in wnids:
        for number in range(per_class):
            yield source / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", wnid, "train"
    with (source / "val" / "val_annotations.txt").open() as file:
        for name, wnid, *_ in csv.reader(file, delimiter="\t"):
            if wnid in wnids:
                yield source / "val" / "images" / name, wnid, "val"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("list", type=Path)
    parser.add_argument("--per_class", type=int, default=500)
    args = parser.parse_args()
    seen: set[bytes] = set()
    kept = {"train": 0, "val": 0}
    wnids = Path(__file__).with_suffix(".txt").read_text().split()
    with args.list.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        chosen = images(args.source, wnids, args.per_class)
        for path, wnid, split in sorted(chosen, key=lambda image: (image[2], image[1], image[0].name)):
            mark = hashlib.sha256(path.read_bytes()).digest()
            if mark not in seen:
                seen.add(mark)
                kept[split] += 1
                rows.writerow([path.resolve(), wnid, split])
    print(f"{args.list}: {kept['train']:,} training and {kept['val']:,} validation images of {len(wnids)} classes")


if __name__ == "__main__":
    main()
