"""`gmsop prepare` makes packed sets from images."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli import new_parser
from gmsop.cli.printing import err, out

if TYPE_CHECKING:
    from gmsop.data.prepare.registry import Source

GROUP = "train"
SUMMARY = "Pack images, or a published data set, into a set to train on."
EXAMPLE = "gmsop prepare folder --source photos --out photos64 --size 64"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    from gmsop.data.prepare.registry import SOURCES

    kinds = parser.add_subcommands(dest="kind", metavar="KIND")
    for source in SOURCES:
        sub = new_parser(f"Pack {source.reads}.", f"gmsop prepare {source.name} --source SOURCE --out SET")
        sub.add_argument("--source", type=str, required=True, help=source.reads)
        sub.add_argument("--out", type=str, required=True, help="packed set to make")
        if argv[:1] == [source.name]:
            sub.add_function_arguments(source.pack, as_group=False, skip={"source", "path", "options"})
            sub.add_class_arguments(_shared(source), as_group=False, skip={"progress", "overwrite"})
            sub.add_argument("--overwrite", action="store_true", help="replace a packed set that is there")
        kinds.add_subcommand(source.name, sub, help=source.reads)


def _shared(source: "Source") -> Any:
    """Return the class of the options that the source shares with others: the annotation of its `options`."""
    return get_args(get_type_hints(source.pack)["options"])[0]


def run(args: Namespace) -> None:
    """Run the command."""
    from dataclasses import fields

    import numpy as np

    from gmsop.data import PackedDataset
    from gmsop.data.duplicates import Equal, in_words
    from gmsop.data.packed import read_meta
    from gmsop.data.prepare.registry import SOURCES

    source = SOURCES[args.kind]
    given = args[args.kind].as_dict()
    from_path, path = given.pop("source"), given.pop("out")
    shared = _shared(source)
    how = shared(**{f.name: given.pop(f.name) for f in fields(shared) if f.name in given}, progress=True)
    skipped = source.pack(from_path, path, options=how, **given) or []
    for bad in skipped:
        err.print(f"skipped {bad.path}: {bad.reason}", markup=False)
    if share := getattr(how, "share", None):
        done = f"share {share[0]} of {share[1]} is decoded; when all are, run again without --shard"
        out.print(f"{path}: {done}", markup=False)
        return
    meta = read_meta(path)
    counts = ", ".join(f"{n:,} {split}" for split, n in meta["splits"].items())
    mean = " ".join(f"{v:.1f}" for v in meta["rgb_mean"])
    size = sum(f.stat().st_size for f in Path(path).iterdir()) / 1e6
    side = meta["image_size"]
    out.print(
        f"{path}: {counts}, {len(meta['class_names'])} classes, {side} x {side} pixels, {size:,.1f} MB, "
        f"RGB mean {mean} (of 255){f', {len(skipped)} skipped' if skipped else ''}",
        markup=False,
    )
    for split in meta["splits"]:
        labels = PackedDataset(path, split, verify=False).labels
        found: list[int] = np.bincount(labels, minlength=len(meta["class_names"])).tolist()
        out.print(f"{split}: {min(found):,} to {max(found):,} images per class")
    if text := in_words(Equal(**meta["equal_images"])):
        err.print(f"gmsop: warning: equal in every pixel: {text}. `gmsop data inspect` names them", style="bold red")
