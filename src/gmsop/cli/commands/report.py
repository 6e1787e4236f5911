"""`gmsop report` writes one page about one run or several."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import out

GROUP = "measure"
SUMMARY = "Write one self-contained HTML page about one run or several."
EXAMPLE = "gmsop report runs/demo/gap runs/demo/gm-sop --out demo.html"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("runs", nargs="+", type=str, help="run folders")
    parser.add_argument("--out", type=str | None, help="the page; default: report.html in the first run's folder")
    parser.add_argument("--data", type=str | None, help="packed set for the sample images; default: the run's own")
    parser.add_argument("--images", type=int, default=2000, help="val images among which samples are looked for")


def run(args: Namespace) -> None:
    """Run the command."""
    from gmsop.report.page import write_report

    page = Path(args.out) if args.out else Path(args.runs[0]) / "report.html"
    write_report([Path(run) for run in args.runs], page, args.data, args.images, progress=True)
    out.print(f"{page} ({page.stat().st_size / 1e6:.1f} MB)", markup=False)
