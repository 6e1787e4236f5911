"""`gmsop recipes` lists the recipes, or prints one."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import out, print_json

GROUP = "train"
SUMMARY = "List the recipes, or print one."
EXAMPLE = "gmsop recipes imagenet64/gm_sop_16_8_resnet18"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("name", nargs="?", help="print this recipe; without it, list all")


def run(args: Namespace) -> None:
    """Run the command."""
    from gmsop.training.recipe import load_recipe, recipe_names, recipe_text

    if args.json:
        print_json(load_recipe(args.name).to_dict() if args.name else recipe_names())
        return
    out.print(recipe_text(args.name) if args.name else "\n".join(recipe_names()), markup=False, end="\n")
