"""`make fuzz` in short: damaged files of every kind are read or refused, and the promise is one that can be broken."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT, CRASH = (Path(__file__).with_name(name) for name in ("fuzz.py", "crash.py"))


def survived(script: Path, *words: str) -> int:
    """The number of tries, of which all were survived."""
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    tries, lived = re.findall(r"^(\d+) tries, (\d+) survived$", done.stdout, re.MULTILINE)[0]
    assert tries == lived
    return int(tries)


@pytest.mark.slow
def test_damaged_files_are_read_or_refused():
    assert survived(SCRIPT, "--cases", "10") == 21 * 10


@pytest.mark.slow
def test_the_next_run_ends_as_if_nothing_had_happened():
    """`make fuzz` kills before every change; here before every thirtieth."""
    assert survived(CRASH, "--every", "30", "--first", "7") >= 5


PROGRAM = """
import os, sys, time
sys.path.insert(0, {folder!r})
import fuzz, readers

FAULTS = [lambda: None, lambda: 1 / 0, lambda: os.kill(os.getpid(), 11), lambda: bytes(2**33), lambda: time.sleep(9)]


def read(folder):
    FAULTS[int((folder / "x").read_text())]()


def mutate(content, draw):
    return str(numbers[draw.randrange(len(numbers))]).encode()


numbers = [0, 1, 2, 3, 4]
fuzz.SECONDS = 1
readers.reader("bad", lambda folder: readers.write(folder / "x", b"0"), read, mutate)
sys.argv = ["fuzz.py", "--only", "bad", "--cases", "20"]
sys.exit(fuzz.main())
"""


@pytest.mark.slow
def test_a_reader_that_breaks_the_promise_is_found():
    program = PROGRAM.format(folder=str(SCRIPT.parent))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    for fault in ("ZeroDivisionError", "died of SIGSEGV", "MemoryError", "died of SIGALRM"):
        assert fault in done.stdout
