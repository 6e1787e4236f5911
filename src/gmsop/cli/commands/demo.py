"""`gmsop demo` compares three heads."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import free_folder, out
from gmsop.errors import ConfigError

SUMMARY = "Compare three heads on the bundled images, in about four minutes."
EXAMPLE = "gmsop demo --seed 1"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("--out", type=str | None, help="folder for the three runs; default: runs/demo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int | None, help="instead of the recipes' number")


def run(args: Namespace) -> None:
    """Run the command."""
    from rich.table import Table

    from gmsop.training.demo import run_demo

    if args.epochs is not None and args.epochs < 1:
        raise ConfigError(f"--epochs must be at least 1, got {args.epochs}")
    folder = Path(args.out) if args.out else free_folder(Path("runs/demo"))
    runs = run_demo(folder, args.seed, args.epochs)
    table = Table("head", "top-1 error, %", "parameters", "seconds", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for label, run in runs.items():
        table.add_row(label, f"{run.result.top1_error:.1f}", f"{run.parameters:,}", f"{run.seconds:.0f}")
    out.print("\nAfter the last epoch, on 500 images not trained on:\n")
    out.print(table)
    out.print(f"\ncurves: {folder / 'curves.png'}", markup=False)
