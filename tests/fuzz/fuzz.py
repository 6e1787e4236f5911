"""Damage every kind of file that gmsop reads, in a thousand ways, and see that it is read or refused.

    python tests/fuzz/fuzz.py [--cases 1000] [--seed 0] [--only READER] [--first CASE]

Anything but success or a `GmsopError` is a fault: another exception, a signal, 10 seconds, 2 GiB of address space. A
reader runs in a process of its own, and after a fault that ends it in another. Prints a table; exits with 1 if there
was a fault.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
SECONDS, BYTES = 10, 2**31


def run(name: str, seed: int, first: int, cases: int, folder: Path, report: Path) -> None:
    """Run the cases of one reader in this process, and write what happens line by line."""
    from readers import READERS

    from gmsop.errors import GmsopError

    kind = READERS[name]
    honest, place = folder / "honest", folder / "case"
    shutil.rmtree(honest, ignore_errors=True)
    honest.mkdir(parents=True)
    files = [file.relative_to(honest) for file in kind.make(honest)]
    kind.read(honest)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    with report.open("a", buffering=1) as lines:
        for case in range(first, cases):
            draw = random.Random(f"{name} {seed} {case}")
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(honest, place)
            file = place / draw.choice(files)
            file.write_bytes(kind.mutate(file.read_bytes(), draw))
            lines.write(json.dumps([case, "began"]) + "\n")
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                kind.read(place)
                outcome = "read"
            except GmsopError:
                outcome = "refused"
            except BaseException as error:
                at = traceback.extract_tb(error.__traceback__)
                own = next((f for f in reversed(at) if "/gmsop/" in f.filename), at[-1])
                outcome = f"{type(error).__name__}: {str(error)[:200]} ({Path(own.filename).name}:{own.lineno})"
            signal.setitimer(signal.ITIMER_REAL, 0)
            lines.write(json.dumps([case, outcome]) + "\n")


def fuzz(name: str, seed: int, first: int, cases: int, folder: Path) -> tuple[dict[str, int], list[str]]:
    """Return how many cases were read and refused, and every fault in words."""
    report = folder / "report.jsonl"
    folder.mkdir(parents=True)
    outcomes: dict[int, str] = {}
    begin = first
    while begin < cases:
        child = os.fork()
        if child == 0:
            warnings.simplefilter("ignore")
            status = 1
            with contextlib.redirect_stdout(io.StringIO()), open(os.devnull, "w") as null:  # noqa: PTH123
                if os.environ.get("GMSOP_FUZZ_QUIET", "1") == "1":
                    os.dup2(null.fileno(), 2)  # libraries print what they think of damaged files
                try:
                    run(name, seed, begin, cases, folder, report)
                    status = 0
                except BaseException:
                    report.open("a").write(json.dumps([-1, traceback.format_exc()]) + "\n")
            os._exit(status)
        _, status = os.waitpid(child, 0)
        last = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
        outcomes |= {case: outcome for case, outcome in last if outcome != "began"}
        if -1 in outcomes:
            raise RuntimeError(f"{name}: the honest example fails\n{outcomes[-1]}")
        if os.waitstatus_to_exitcode(status) == 0:
            break
        case = last[-1][0] if last else begin
        number = -os.waitstatus_to_exitcode(status)
        outcomes[case] = f"died of {signal.Signals(number).name if number > 0 else number}"
        begin = case + 1
    counts = {word: sum(found == word for found in outcomes.values()) for word in ("read", "refused")}
    return counts, [f"case {case}: {found}" for case, found in outcomes.items() if found not in counts]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    faults, tries = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GMSOP_CACHE"] = str(Path(folder) / "cache")
        from readers import READERS

        for number, name in enumerate(READERS):
            if args.only and args.only not in name:
                continue
            start = time.perf_counter()
            counts, wrong = fuzz(name, args.seed, args.first, args.cases, Path(folder) / str(number))
            tries += sum(counts.values()) + len(wrong)
            faults += len(wrong)
            seconds = time.perf_counter() - start
            figures = f"{counts['read']:6} read {counts['refused']:6} refused {len(wrong):4} faults"
            print(f"{name:28} {figures} {seconds:6.1f} s", flush=True)
            for text in wrong[:20]:
                print(f"    {text}")
    print(f"{tries:,} tries, {tries - faults:,} survived")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
