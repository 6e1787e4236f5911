"""`gmsop benchmark` measures times on this machine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import err, out
from gmsop.errors import ConfigError
from gmsop.utils.text import first_line

if TYPE_CHECKING:
    import torch

GROUP = "measure"
SUMMARY = "Time operators, heads, steps and inference on this machine."
EXAMPLE = "gmsop benchmark operator head --json figures.json"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("tables", nargs="*", help="operator, head, step, inference; default: operator and head")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--models", default="*", help="which models `inference` times, for example '*_resnet18'")
    parser.add_argument("--json", type=str | None, help="also write every figure to this file")
    parser.add_argument("--small", type=bool, default=False, help="true: tiny sizes, to see that everything runs")


def run(args: Namespace) -> None:
    """Run the command."""
    import json
    from inspect import signature

    import torch
    from rich.table import Table

    from gmsop.speed.registry import TABLES
    from gmsop.utils.files import writing

    for name in args.tables:
        TABLES[name]  # an unknown name is an error before anything is measured
    device = benchmark_device(args.device)
    about = {
        "hardware": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    out.print(", ".join(about.values()))
    figures = {}
    for name in args.tables or ["operator", "head"]:
        torch.manual_seed(0)
        rows = []
        with err.status(f"measuring: {name}") as status:
            options = {"models": args.models} if "models" in signature(TABLES[name]).parameters else {}
            with _no_tf32_in_convolutions():
                for row in TABLES[name](device, args.small, **options):
                    rows.append(row)
                    status.update(f"measuring: {name}; done: {row.case}, {row.candidate}")
                    figures[name] = [row.as_dict() for row in rows]
                    if args.json:  # after every row, so that a long run that is stopped leaves its figures
                        with writing(args.json) as file:
                            file.write_text(json.dumps({**about, "tables": figures}, indent=1))
        out.print(f"\n{(TABLES[name].__doc__ or name).splitlines()[0]}")
        more = ["note"] if any(row.note for row in rows) else []
        table = Table("case", "candidate", "error", "ms", "+-", "peak MiB", "ratio", *more, box=None)
        for column in table.columns[2:7]:
            column.justify = "right"
        for i, row in enumerate(rows):
            case = row.case if not i or rows[i - 1].case != row.case else ""
            table.add_row(
                case, row.candidate, f"{row.error:.0e}", f"{row.milliseconds:.2f}", f"{row.spread:.2f}",
                f"{row.peak_mib:.0f}", f"{row.ratio:.2f}", *([row.note] if row.note else []),
            )  # fmt: skip
        out.print(table)
    out.print(
        "\nms: median of rounds in turn, +- half the quartiles' distance. ratio: the first one's time over this one's."
    )


def asked_device(argv: Sequence[str]) -> "torch.device":
    """Return the device that a command line of `gmsop benchmark` asks for. Scripts that measure more use it."""
    words = ArgumentParser(exit_on_error=False)
    arguments(words, argv)
    return benchmark_device(words.parse_args(list(argv)).device)


def benchmark_device(name: str) -> "torch.device":
    """Return the device that --device names, made the current one.

    Raises:
        ConfigError: the device is not there, or is neither a CPU nor a CUDA device.
    """
    import torch

    from gmsop.speed.timing import make_current

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: {first_line(error)}") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name}: only cpu and cuda are timed here")
    return make_current(device)


@contextmanager
def _no_tf32_in_convolutions() -> Iterator[None]:
    """Switch off cuDNN's default of three digits in float32 convolutions.

    Results with it neither agree with float64 nor compare fairly.
    """
    import torch

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
