"""`gmsop probe` tells whether second-order pooling helps on one's own images."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.commands.features import add_extraction, found_images, layers_of
from gmsop.cli.printing import out, print_json
from gmsop.utils import verbosity

if TYPE_CHECKING:
    from gmsop.data.labelled_images import LabelledImages
    from gmsop.probe.comparison import Comparison

GROUP = "look"
SUMMARY = "Learn in minutes whether second-order pooling helps on your images."
EXAMPLE = "gmsop probe --backbone tf_efficientnet_lite0 --data photos --out runs/probe"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    add_extraction(parser)
    parser.add_argument("--out", type=str, default="runs/probe", help="folder for table, page, model and features")
    heads = "what is compared; list shows all"
    parser.add_argument("--heads", nargs="+", type=str, default=["average", "second_order"], help=heads)
    parser.add_argument("--pairs", type=bool, default=True, help="false: no layers beside each other")
    parser.add_argument("--dims", nargs="+", type=int, default=[64, 128], help="principal components to choose from")
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation, where there is no test split")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of folds and training")
    parser.add_argument("--epochs", type=int, default=20, help="of trained heads")
    parser.add_argument("--max_images", type=int, default=6000, help="of more, so many are drawn, class by class")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--features", type=str | None, help="folder of features; default: features in the folder --out")


def run(args: Namespace) -> None:
    """Run the command."""
    from gmsop.probe.registry import PROBES
    from gmsop.probe.study import study

    if args.heads == ["list"]:
        for probe in PROBES:
            order = {0: "neither", 1: "first order", 2: "second order"}[probe.order]
            out.print(f"{probe.name:24} {order:14} {probe.help}", markup=False)
        return
    images = found_images(args)
    folder = Path(args.out)
    comparison = study(
        args.backbone,
        images,
        folder,
        layers=layers_of(args),
        weights=args.weights,
        image_size=args.image_size,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        flip=args.flip,
        heads=args.heads,
        pairs=args.pairs,
        dims=args.dims,
        folds=args.folds,
        seeds=args.seeds,
        epochs=args.epochs,
        max_images=args.max_images,
        features=args.features,
        progress=not verbosity.quiet,
    )
    write_page(comparison, folder, images)
    if args.json:
        print_json(
            {
                "verdict": comparison.verdict, "p_value": comparison.difference.p_value, "rows": comparison.records(),
                "folder": str(folder),
            }
        )  # fmt: skip
        return
    print_comparison(comparison, folder)


def write_page(comparison: "Comparison", folder: Path, images: "LabelledImages") -> None:
    """Write the page of a study of these images beside its other files."""
    from gmsop.probe.study import drawn
    from gmsop.report.probe_page import write_probe_page

    write_probe_page(comparison, folder / "report.html", drawn(images, comparison.images))


def print_comparison(comparison: "Comparison", folder: Path) -> None:
    """Print the table and the answer."""
    from rich.table import Table

    columns = ("head", "layer", "error, %", "95 % interval", "difference", "95 % interval", "", "settings", "seconds")
    table = Table(*columns, box=None)
    for place in (2, 4, 7, 8):
        table.columns[place].justify = "right"
    for row in comparison.rows:
        found = row.difference
        table.add_row(
            row.head,
            row.layers,
            f"{row.error:.2f}",
            f"{row.interval[0]:.2f} to {row.interval[1]:.2f}",
            "" if found is None else f"{found.points:+.2f}",
            "" if found is None else f"{found.low:+.2f} to {found.high:+.2f}",
            "reference" if found is None else found.verdict,
            str(row.settings),
            f"{row.seconds:.1f}",
            style="bold" if row.is_chosen else "",
        )
    how = f"{comparison.folds}-fold cross-validation" if comparison.folds else "the data's own test split"
    out.print(f"\n{comparison.about['backbone']}, frozen; {len(comparison.test_images):,} test images, {how}\n")
    out.print(table)
    out.print(
        "\nLayers and settings of the two bold rows were chosen inside the training images. The other rows show where "
        "the gain is;\ntaking the least of them would be a choice made on the test images. Differences are to the best "
        "of first order, paired over images.\n"
    )
    out.print(f"{comparison.verdict} McNemar: p = {comparison.difference.p_value:.2g}", style="bold", markup=False)
    out.print(f"model kept: {comparison.winner.label}: {folder / 'model.safetensors'}", markup=False)
    out.print(f"page: {folder / 'report.html'}; table: {folder / 'comparison.csv'}, comparison.json", markup=False)
