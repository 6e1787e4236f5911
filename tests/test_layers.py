"""Who may import whom: every module imports only what stands above it in this list, or beside it in its own package."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "gmsop"

FLOORS = [
    ["errors"],
    ["files", "progress", "published"],
    ["environment", "metrics"],
    ["kernels"],
    ["ops", "data"],
    ["nn"],
    ["assembly", "usage"],
    ["models"],
    ["catalog", "checkpoint", "matconvnet", "matfile", "trainer", "curves", "recipe"],
    ["convert", "evaluation", "prediction"],
    ["training"],
    ["demo", "benchmark", "report"],
    ["cli"],
]
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}


def imports(file: Path) -> set[str]:
    """gmsop's own top-level modules that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("gmsop.")}
    return found


def files() -> list[Path]:
    return [f for f in sorted(ROOT.rglob("*.py")) if f != ROOT / "__init__.py"]


@pytest.mark.parametrize("file", files(), ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_go_down_only(file):
    own = file.relative_to(ROOT).parts[0].removesuffix(".py")
    assert own in FLOOR, f"{own} has no floor yet"
    for other in imports(file) - {own, "__version__"}:
        assert FLOOR[other] < FLOOR[own], f"{file.name} imports {other}"


def test_data_and_networks_do_not_know_each_other():
    for package, stranger in (("data", "nn"), ("data", "ops"), ("nn", "data"), ("ops", "data")):
        for file in (ROOT / package).glob("*.py"):
            assert stranger not in imports(file), file


def test_nothing_but_kernels_imports_triton():
    for file in files():
        if file.relative_to(ROOT).parts[0] != "kernels":
            assert not re.search(r"(import|from) triton", file.read_text()), file
