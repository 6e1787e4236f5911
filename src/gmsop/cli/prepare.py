"""`gmsop prepare`: packed sets from images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.console import err, out
from gmsop.errors import ConfigError

SUMMARY = "Pack images, or a published data set, into a set to train on."
EXAMPLE = "gmsop prepare folder --source photos --out photos64 --size 64"


PREPARE = {  # kind: what it reads, and the options that it takes besides those of all
    "folder": (
        "CLASS/*.jpg, or train/CLASS/* and val/CLASS/*, or a CSV of path,label",
        "size filter val_fraction seed",
    ),
    "imagenet": ("Downsampled ImageNet: train_data_batch_*, val_data, .npz or zipped", "size class_order"),
    "imdb": ("the authors' imdb.mat", "class_names md5"),
    "places365": ("Places-365 standard with its file lists", "size filter version"),
    "tiny-imagenet": ("tiny-imagenet-200", "size filter"),
}
DECODING = ("folder", "places365", "tiny-imagenet")


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    from gmsop.data.images import FILTERS

    kinds = "; ".join(f"{kind}: {reads}" for kind, (reads, _) in PREPARE.items())
    parser.add_argument("kind", choices=list(PREPARE), help=kinds)
    parser.add_argument("--source", type=str, required=True, help="the folder or file to read")
    parser.add_argument("--out", type=str, required=True, help="packed set to make")
    parser.add_argument("--size", type=int | None, help="images become SIZE x SIZE pixels; default 64, places365 100")
    parser.add_argument("--filter", type=str | None, help=f"{', '.join(FILTERS)}; default box, places365 bicubic")
    parser.add_argument("--val_fraction", type=float | None, help="folder: share held out without a val; default 0.2")
    parser.add_argument("--seed", type=int | None, help="folder: of the draw of the held-out images; default 0")
    order = "imagenet: release (default: the numbers everybody trained on it uses) or wordnet (torchvision's, timm's)"
    parser.add_argument("--class_order", type=str | None, help=order)
    parser.add_argument("--class_names", type=str | None, help="imdb: file with a class name a line")
    parser.add_argument("--md5", type=bool | None, help="imdb: true checks for the published ImageNet-64 file")
    parser.add_argument("--version", type=str | None, help="places365: 256 or large, where both are there")
    parser.add_argument("--on_error", type=str | None, help="images that cannot be read: stop (default) or skip")
    parser.add_argument("--workers", type=int | None, help="decoding processes; default: one per processor")
    parser.add_argument("--shard", type=str | None, help="I/N: decode only this share; a run without it joins all")
    parser.add_argument("--overwrite", action="store_true", help="replace a packed set that is there")


def run(args: Namespace) -> None:
    import numpy as np

    from gmsop import data
    from gmsop.data.packed import read_meta

    own = {"size", "filter", "val_fraction", "seed", "class_order", "class_names", "md5", "version"}
    decoding = {"on_error", "workers", "shard"}
    allowed = set(PREPARE[args.kind][1].split()) | (decoding if args.kind in DECODING else set())
    given = {name: args[name] for name in own | decoding if args[name] is not None}
    if strange := sorted(set(given) - allowed):
        raise ConfigError(f"prepare {args.kind} has no option {', '.join(f'--{name}' for name in strange)}")
    rename = {"size": "image_size", "filter": "filter_name", "md5": "check_md5"}
    options = {rename.get(name, name): value for name, value in given.items() if name not in decoding}
    skipped: list[data.UnreadableImage] = []
    if args.kind in DECODING:
        how = data.PackOptions(**_decoding(given), overwrite=args.overwrite, progress=True)
        pack = {"folder": data.pack_folder, "places365": data.pack_places365, "tiny-imagenet": data.pack_tiny_imagenet}
        skipped = pack[args.kind](args.source, args.out, options=how, **options)  # type: ignore[operator]
        for bad in skipped:
            err.print(f"skipped {bad.path}: {bad.reason}", markup=False)
        if how.shard:
            done = f"share {how.shard[0]} of {how.shard[1]} is decoded; when all are, run again without --shard"
            out.print(f"{args.out}: {done}", markup=False)
            return
    elif args.kind == "imagenet":
        data.pack_imagenet(args.source, args.out, **options, overwrite=args.overwrite, progress=True)
    else:
        if file := options.pop("class_names", None):
            options["class_names"] = _lines_of(file)
        data.pack_imdb(args.source, args.out, **options, overwrite=args.overwrite, progress=True)
    meta = read_meta(args.out)
    counts = ", ".join(f"{n:,} {split}" for split, n in meta["splits"].items())
    mean = " ".join(f"{v:.1f}" for v in meta["rgb_mean"])
    size = sum(f.stat().st_size for f in Path(args.out).iterdir()) / 1e6
    side = meta["image_size"]
    out.print(
        f"{args.out}: {counts}, {len(meta['class_names'])} classes, {side} x {side} pixels, {size:,.1f} MB, "
        f"RGB mean {mean} (of 255){f', {len(skipped)} skipped' if skipped else ''}",
        markup=False,
    )
    for split in meta["splits"]:
        labels = data.PackedDataset(args.out, split, verify=False).labels
        found = np.bincount(labels, minlength=len(meta["class_names"]))
        out.print(f"{split}: {found.min():,} to {found.max():,} images per class")


def _decoding(given: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {name: given[name] for name in ("on_error", "workers") if name in given}
    if "shard" in given:
        first, slash, count = given["shard"].partition("/")
        if not (slash and first.isdecimal() and count.isdecimal()):
            raise ConfigError(f"--shard is I/N, such as 3/16; got {given['shard']!r}")
        options["shard"] = (int(first), int(count))
    return options


def _lines_of(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error})") from error
