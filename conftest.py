"""Run every block of README and of the pages in docs: Python in one namespace, shell commands in one folder a page.

A command of gmsop's is run in this process, which saves the seconds of an import. A block that cannot be run
here, because it needs data or a machine that is not at hand, has the comment `skip: next` before it.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported; the processes that tests start follow
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from gmsop.cli import main

_kept: dict[str, Path] = {}


def laid_table() -> Path:
    """Make a folder with what the start page leaves: the bundled photographs and a small run."""
    if "start" not in _kept:
        start = _kept["start"] = Path(tempfile.mkdtemp())
        os.chdir(start)
        assert main(["data", "sample", "photos"]) == 0
        assert main(["train", "--recipe", "demo/gm_sop_4_2", "--epochs", "1", "--out", "runs/land", "--quiet"]) == 0
    # Second names of the files, which takes a tenth of the time of copies: no block changes a file in place.
    return Path(shutil.copytree(_kept["start"], tempfile.mkdtemp(), dirs_exist_ok=True, copy_function=os.link))


def setup(namespace: dict, folder: Callable[[], Path] = laid_table) -> None:
    """Enter a folder of the page's own."""
    namespace["_before"] = Path.cwd()
    namespace["_folder"] = folder()
    os.chdir(namespace["_folder"])


def teardown(namespace: dict) -> None:
    """Leave it, and remove it."""
    os.chdir(namespace["_before"])
    shutil.rmtree(namespace["_folder"], ignore_errors=True)


def run_shell(example) -> None:
    """Run a block line by line; a line that ends in a backslash goes on."""
    for line in example.parsed.replace("\\\n", " ").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        words = shlex.split(line, comments=True)
        if words[:1] == ["gmsop"] and not {"|", ">", "<"} & set(words):
            expanded = [name for word in words[1:] for name in (_expanded(word) if f"'{word}'" not in line else [word])]
            assert main(expanded) == 0, line
        else:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            words = ["bash", "-eo", "pipefail", "-c", line]
            subprocess.run(words, check=True, timeout=120, env=os.environ | {"PATH": path})


def _expanded(word: str) -> list[str]:
    found = sorted(map(str, Path().glob(word))) if "*" in word and not word.startswith("/") else []
    return found or [word]


PARSERS = [PythonCodeBlockParser(), CodeBlockParser(language="sh", evaluator=run_shell), SkipParser()]
START = Sybil(
    parsers=PARSERS,
    patterns=["README.md", "docs/index.md"],
    setup=lambda namespace: setup(namespace, lambda: Path(tempfile.mkdtemp())),
    teardown=teardown,
)
PAGES = Sybil(
    parsers=PARSERS,
    patterns=["docs/*.md", "docs/results/*.md"],
    excludes=["docs/index.md"],
    setup=setup,
    teardown=teardown,
)
pytest_collect_file = (START + PAGES).pytest()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list) -> None:
    for item in items:  # the blocks of a page build on one another
        if item.path.suffix == ".md":
            item.add_marker(pytest.mark.xdist_group(f"page {item.path.name}"))
