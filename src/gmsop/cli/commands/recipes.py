"""`gmsop recipes` lists the recipes, or prints one."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import out

SUMMARY = "List the recipes, or print one."
EXAMPLE = "gmsop recipes imagenet64/gm_sop_16_8_resnet18"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("name", nargs="?", help="print this recipe; without it, list all")


def run(args: Namespace) -> None:
    """Run the command."""
    from gmsop.training.recipe import recipe_names, recipe_text

    out.print(recipe_text(args.name) if args.name else "\n".join(recipe_names()), markup=False, end="\n")
