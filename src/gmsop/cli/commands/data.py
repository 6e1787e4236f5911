"""`gmsop data` says what is in a packed set."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import err, out, print_json
from gmsop.errors import ConfigError

GROUP = "train"
SUMMARY = "Say what is in a packed set, or verify it; write the bundled images."
EXAMPLE = "gmsop data inspect photos64"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    actions = "say what is in a set; re-hash it; or write the bundled images as a folder of JPEG files"
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("action", choices=["inspect", "verify", "sample"], help=actions)
    parser.add_argument("path", type=str, help="packed set; or, for sample, a new folder")
    parser.add_argument(
        "--sheet", type=str | None, help="inspect: PNG of random images; default: NAME.png beside the set"
    )


def run(args: Namespace) -> None:
    """Run the command."""
    from rich.table import Table

    from gmsop.data import PackedDataset, contact_sheet, inspect_set
    from gmsop.data.duplicates import in_words
    from gmsop.data.packed import read_meta, verify_checksums
    from gmsop.data.sample import unpack_sample

    path = Path(args.path)
    if args.action == "sample":
        out.print(f"{unpack_sample(path):,} images -> {path}/train/CLASS/*, {path}/val/CLASS/*", markup=False)
        return
    if args.action == "verify" and args.sheet:
        raise ConfigError("verify makes no sheet: --sheet goes with inspect")
    meta = read_meta(path)
    if args.action == "verify":
        with err.status("hashing"):
            for split in meta["splits"]:
                PackedDataset(path, split, verify=False)  # opening a split checks its files, shapes and labels
            verify_checksums(path, meta)
        out.print(f"{path}: both checksums are right, shapes and labels are as described", markup=False)
        return
    found = inspect_set(path, progress=True)
    if args.json:
        print_json(
            {
                "path": str(path), "class_names": found.class_names, "image_size": meta["image_size"],
                "bytes": found.bytes, "class_counts": found.class_counts, "rgb_mean": found.rgb_mean,
                "rgb_std": found.rgb_std, "equal_images": [list(map(str, group)) for group in found.equal_images],
            }
        )  # fmt: skip
        return
    table = Table("split", "images", "per class: fewest", "median", "most", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for split, counts in found.class_counts.items():
        ordered = sorted(counts)
        table.add_row(split, *(f"{n:,}" for n in (sum(counts), ordered[0], ordered[len(counts) // 2], ordered[-1])))
    size = meta["image_size"]
    out.print(
        f"{path}: {len(found.class_names)} classes, {size} x {size} pixels, {found.bytes / 1e6:,.1f} MB", markup=False
    )
    out.print(f"from {meta['source']}, filter {meta['filter']}\n", markup=False)
    out.print(table)
    for name, values in (("mean", found.rgb_mean), ("deviation", found.rgb_std)):
        out.print(f"RGB {name}: {' '.join(f'{v:.2f}' for v in values)} (of 255, training images)")
    if empty := [n for n, c in zip(found.class_names, found.class_counts.get("train", []), strict=False) if not c]:
        out.print(f"classes without a training image: {', '.join(empty[:10])}", markup=False)
    out.print(f"images that are equal in every pixel: {in_words(found.equal) or 'none'}")
    for group in sorted(found.equal_images, key=lambda group: len({place.class_name for place in group}) < 2)[:10]:
        more = f", and {len(group) - 4} more" if len(group) > 4 else ""
        out.print(f"  {' = '.join(map(str, group[:4]))}{more}", markup=False)
    if len(found.equal_images) > 10:
        out.print(f"  and {len(found.equal_images) - 10} kinds more")
    named = path if path.name not in ("", "..") else path.resolve()
    sheet = args.sheet or f"{named}.png"
    contact_sheet(path, sheet, next(iter(meta["splits"])))
    out.print(f"random images: {sheet}", markup=False)
