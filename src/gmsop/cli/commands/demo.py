"""`gmsop demo` shows on the bundled images what second-order pooling is for."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import free_folder, out, print_json
from gmsop.errors import ConfigError

GROUP = "look"
SUMMARY = "Compare average with second-order pooling, in three minutes."
EXAMPLE = "gmsop demo --seed 1"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("--out", type=str | None, help="folder for what it writes; default: runs/demo")
    scratch = "train three heads from random weights instead, in about four minutes"
    parser.add_argument("--from_scratch", action="store_true", help=scratch)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int | None, help="with --from_scratch: instead of the recipes' number")


def run(args: Namespace) -> None:
    """Run the command."""
    if args.epochs is not None and args.epochs < 1:
        raise ConfigError(f"--epochs must be at least 1, got {args.epochs}")
    if args.epochs is not None and not args.from_scratch:
        raise ConfigError("--epochs goes with --from_scratch: nothing is trained otherwise")
    folder = Path(args.out) if args.out else free_folder(Path("runs/demo"))
    (_from_scratch if args.from_scratch else _probe)(args, folder)


def _probe(args: Namespace, folder: Path) -> None:
    """Probe a pretrained backbone's features of the bundled images."""
    from dataclasses import replace

    from gmsop.cli.commands.probe import print_comparison, write_page
    from gmsop.data import sample_path
    from gmsop.data.labelled_images import find_images
    from gmsop.probe.study import study

    images = replace(find_images(sample_path(progress=True)), is_test=None)  # each of the 2,000 is tested on once
    comparison = study("tf_efficientnet_lite0", images, folder, seeds=[args.seed], progress=True)
    write_page(comparison, folder, images)
    if args.json:
        print_json({"verdict": comparison.verdict, "rows": comparison.records(), "folder": str(folder)})
        return
    print_comparison(comparison, folder)


def _from_scratch(args: Namespace, folder: Path) -> None:
    """Train the demo's three recipes."""
    from rich.table import Table

    from gmsop.training.demo import run_demo

    runs = run_demo(folder, args.seed, args.epochs)
    if args.json:
        print_json(
            {
                label: {"top1_error": run.result.top1_error, "parameters": run.parameters, "seconds": run.seconds}
                for label, run in runs.items()
            }
        )
        return
    table = Table("head", "top-1 error, %", "parameters", "seconds", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for label, run in runs.items():
        table.add_row(label, f"{run.result.top1_error:.1f}", f"{run.parameters:,}", f"{run.seconds:.0f}")
    out.print("\nAfter the last epoch, on 500 images not trained on:\n")
    out.print(table)
    out.print(f"\ncurves: {folder / 'curves.png'}", markup=False)
