"""`gmsop models` lists the named models."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import err, out

SUMMARY = "List the named models and their sizes."
EXAMPLE = "gmsop models 'gm_sop*'"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("pattern", nargs="?", default="*", help="only names that match, for example 'gm_sop*'")


def run(args: Namespace) -> int:
    """Run the command and return its exit status."""
    from rich.progress import track
    from rich.table import Table

    from gmsop.errors import UnknownNameError
    from gmsop.models.cost import card
    from gmsop.models.names import list_models
    from gmsop.models.published import PARAMETER_NOTES

    names = list_models(args.pattern)
    if not names:
        raise UnknownNameError.of("model", args.pattern, list_models())
    cards = [card(name) for name in track(names, "counting", console=err, transient=True)]
    table = Table("model", "parameters", "GFLOPs", "dim", "published top-1 / top-5 error, %", box=None)
    for column in table.columns[1:4]:
        column.justify = "right"
    notes: list[str] = []
    for c in cards:
        results = "; ".join(
            f"{r.top1:.2f} / {'-' if r.top5 is None else f'{r.top5:.2f}'} {r.dataset}{f' ({r.note})' if r.note else ''}"
            for r in c.results
        )
        mark = ""
        if c.name in PARAMETER_NOTES:
            notes.append(f"[{len(notes) + 1}] {c.name}: {PARAMETER_NOTES[c.name]}")
            mark = f" [{len(notes)}]"
        table.add_row(
            c.name + mark.replace("[", "\\["), f"{c.parameters:,}", f"{c.gflops:.2f}", str(c.representation), results
        )
    out.print(table)
    out.print("\nAt 1000 classes and 64 x 64 pixels. GFLOPs: one image, forward pass, counted; a multiply-add is 2.")
    for note in notes:
        out.print(note, markup=False)
    return 0
