"""`gmsop info` says what gmsop runs on, and what it has decided there."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import out, print_json

GROUP = "about"
SUMMARY = "Say versions, devices, caches, and which kernels are used."
EXAMPLE = "gmsop info"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Namespace) -> int:
    """Run the command and return its exit status."""
    import torch

    from gmsop.ops import kernels
    from gmsop.ops.kernel_decisions import decisions_file, remembered
    from gmsop.runs.environment import describe_environment
    from gmsop.utils.cache import cache_folder

    found = describe_environment()
    if args.json:
        kernels_of = {name: remembered(name) for name in found["gpus"]}
        print_json({**found, "cache": str(cache_folder()), "GMSOP_KERNELS": kernels.mode(), "decisions": kernels_of})
        return 0
    for package, version in found["packages"].items():
        out.print(f"{package:12} {version}", markup=False)
    out.print(f"{'python':12} {found['python']}, {found['machine']}", markup=False)
    out.print(f"{'processor':12} {found['processor']}, {found['threads']} threads", markup=False)
    out.print(f"{'cache':12} {cache_folder()}", markup=False)
    out.print(f"{'kernels':12} GMSOP_KERNELS={kernels.mode()}", markup=False)
    if not found["gpus"]:
        out.print(f"{'GPU':12} none: on a CPU there are no kernels to choose")
    for index, name in enumerate(found["gpus"]):
        out.print(f"{'GPU':12} {name}", markup=False)
        if not kernels.usable(torch.device("cuda", index)):
            out.print(f"{'':12} runs none of the kernels (they need compute capability 8.0, and Triton)")
            continue
        decisions = remembered(name)
        for call, decision in decisions.items():
            out.print(f"{'':12} {call}: {decision}", markup=False)
        out.print(f"{'':12} {len(decisions) or 'no'} decisions, in {decisions_file(name)}", markup=False)
    return 0
