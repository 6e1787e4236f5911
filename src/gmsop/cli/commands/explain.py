"""`gmsop explain` shows what decided about images."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import err, note, out, print_json
from gmsop.errors import ConfigError

GROUP = "use"
SUMMARY = "Show what decided: components, places, channel pairs."
EXAMPLE = "gmsop explain runs/gm_sop_4_2 photo.jpg --html explained.html"
MOST = 200
"""Images on one sheet."""


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("checkpoint", type=str, help="run folder, .safetensors or .ckpt file")
    parser.add_argument("images", nargs="+", type=str, help="files, folders, patterns, tar files, or -: see predict")
    parser.add_argument("--class_name", type=str | None, help="the class to explain; default: the likeliest")
    parser.add_argument("--pairs", type=int, default=5, help="channel pairs to tell of each part")
    parser.add_argument("--out", type=str, default="explained.png", help="the sheet, a PNG")
    parser.add_argument("--html", type=str | None, help="write a page, too")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    turned = "turn images as their EXIF data says, as viewers do"
    parser.add_argument("--exif_orientation", type=bool, default=True, help=turned)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Namespace) -> int:
    """Run the command and return its exit status."""
    from gmsop.data.image_sources import iter_images
    from gmsop.errors import DataError
    from gmsop.evaluation.explanation import explain
    from gmsop.report.explanation_sheet import write_page, write_sheet
    from gmsop.utils.progress import progress_bar
    from gmsop.utils.text import printable
    from gmsop.weights.model_file import load_model

    if args.pairs < 1:
        raise ConfigError(f"--pairs must be at least 1, got {args.pairs}")
    if Path(args.out).suffix.lower() != ".png":
        raise ConfigError(f"--out {args.out}: the sheet is a .png")
    if args.html and Path(args.html).resolve() == Path(args.out).resolve():
        raise ConfigError(f"--out and --html both name {args.html}")
    for file in filter(None, (args.out, args.html)):
        if Path(file).exists() and not args.overwrite:
            raise ConfigError(f"{file} is there already: --overwrite replaces it")
    model = load_model(args.checkpoint)
    found: list[Any] = []
    failed = 0
    with progress_bar(True) as bar:
        task = bar.add_task("images", total=None)
        for image in iter_images(args.images, sys.stdin):
            if len(found) == MOST:
                note(f"a sheet has {MOST} images; those after are left out")
                break
            try:
                found.append(explain(model, image, args.class_name, args.exif_orientation))
            except (DataError, OSError) as error:
                err.print(f"gmsop: error: {printable(image.name)}: {error}", markup=False)
                failed += 1
            bar.advance(task)
    if not found:
        raise ConfigError("there is no image to explain")
    for each in found:
        if args.json:
            parts = [
                {
                    "part": part.name, "weight": part.weight,
                    "pairs": [{"channels": [i, j], "moves": value} for i, j, value in part.strongest(args.pairs)],
                }
                for part in each.parts
            ]  # fmt: skip
            likeliest = [{"class": name, "probability": probability} for name, probability in each.classes]
            print_json({"image": each.name, "class": each.explained, "probability": each.probability,
                        "logit": each.logit, "classes": likeliest, "parts": parts})  # fmt: skip
            continue
        name, probability = each.classes[0]
        line = f"{printable(each.name)}: {printable(name)} {100 * probability:.1f} %"
        if each.explained != name:
            line += f"; explained is {printable(each.explained)}, {100 * each.probability:.1f} %"
        out.print(line, markup=False)
        for part in each.parts:
            weight = "" if part.weight is None else f" (weight {part.weight:.3f})"
            pairs = ", ".join(f"{i} x {j} {value:+.3f}" for i, j, value in part.strongest(args.pairs))
            out.print(f"  {part.name}{weight}: channels {pairs}", markup=False)
    write_sheet(found, Path(args.out))
    if args.html:
        write_page(found, Path(args.html))
    if not args.json:
        out.print(" ".join(filter(None, [args.out, args.html])), markup=False)
    return 1 if failed else 0
