"""`gmsop models` lists the named models."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import err, out, print_json

GROUP = "look"
SUMMARY = "List the named models and their sizes."
EXAMPLE = "gmsop models 'gm_sop*'"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("pattern", nargs="?", default="*", help="only names that match, for example 'gm_sop*'")
    parser.add_argument("--backbone", type=str | None, help="every head on this timm backbone, for example resnet50")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--image_size", type=int | None, help="with --backbone: pixels; default: the backbone's own")


def run(args: Namespace) -> int:
    """Run the command and return its exit status."""
    from rich.progress import track
    from rich.table import Table

    from gmsop.errors import ConfigError, UnknownNameError
    from gmsop.models.cost import card
    from gmsop.models.names import list_models
    from gmsop.models.published import PARAMETER_NOTES

    if args.backbone:
        _on_backbone(args.backbone, args.image_size, args.json)
        return 0
    if args.image_size is not None:
        raise ConfigError("--image_size goes with --backbone; the named models are counted at 64 pixels")
    names = list_models(args.pattern)
    if not names:
        raise UnknownNameError.of("model", args.pattern, list_models())
    cards = [card(name) for name in track(names, "counting", console=err, transient=True)]
    if args.json:
        print_json([{**c._asdict(), "results": [r._asdict() for r in c.results]} for c in cards])
        return 0
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


def _on_backbone(backbone: str, image_size: int | None, as_json: bool) -> None:
    """Print the sizes of every head on a timm backbone, and what was published of it."""
    from rich.progress import track
    from rich.table import Table

    from gmsop.errors import ConfigError
    from gmsop.heads import list_heads
    from gmsop.models.cost import attached_card
    from gmsop.models.published import SYSTEMS

    if image_size is not None and image_size < 1:
        raise ConfigError(f"--image_size must be at least 1, got {image_size}")
    known = SYSTEMS.get(backbone.partition(".")[0])
    published = {} if known is None else {"gap": f"{known.gap:.1f}, {known.multiply_adds} billion multiply-adds"}
    if known is not None and known.isqrt_cov is not None:
        published["sr_sop"] = f"{known.isqrt_cov:.2f} (iSQRT-COV's paper), {known.isqrt_cov_released:.2f} (its weights)"
    if as_json:
        cards = {head: attached_card(backbone, head, image_size) for head in list_heads()}
        print_json(
            [
                {"head": h, "parameters": c.parameters, "gflops": c.gflops, "representation": c.representation}
                for h, c in cards.items()
            ]
        )
        return
    table = Table("head", "parameters", "GFLOPs", "dim", "published top-1 error, %", box=None)
    for column in table.columns[1:4]:
        column.justify = "right"
    for head in track(list_heads(), "counting", console=err, transient=True):
        c = attached_card(backbone, head, image_size)
        row = (f"{c.parameters:,}", f"{c.gflops:.2f}", str(c.representation), published.get(head, ""))
        table.add_row(head, *row)
    out.print(table)
    size = "the backbone's own size" if image_size is None else f"{image_size} x {image_size} pixels"
    out.print(
        f"\n{backbone} at 1000 classes and {size}, heads at their default widths. GFLOPs: one image, forward pass, "
        "counted; a multiply-add is 2.\nPublished figures are the authors' own on ImageNet-1k; none was measured here. "
        "iSQRT-COV keeps the last stage's resolution and has reduced_dim 256.",
        markup=False,
    )
