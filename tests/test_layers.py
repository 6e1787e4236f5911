"""Who may import whom: a room imports only rooms below it, and its own files."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "gmsop"

FLOORS = [  # from the ground up
    ["errors"],
    ["utils"],
    ["data", "ops"],
    ["nn"],
    ["backbones"],
    ["heads"],
    ["models"],
    ["convert", "weights"],
    ["runs"],
    ["engine"],
    ["evaluation"],
    ["export"],
    ["speed", "timm", "training"],
    ["probe"],
    ["report"],
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


def test_the_root_holds_rooms_alone():
    found = {path.name for path in ROOT.iterdir()} - {"__pycache__"}
    assert found == {"__init__.py", "errors.py", "py.typed", *(set(FLOOR) - {"errors"})}


def test_the_engine_knows_no_model():
    assert not {"models", "nn", "weights", "heads", "backbones"} & {
        room for file in (ROOT / "engine").glob("*.py") for room in imports(file)
    }


def test_what_makes_packed_sets_knows_no_model():
    for file in (ROOT / "data").rglob("*.py"):
        assert imports(file) <= {"data", "utils", "errors"}, file


def test_nothing_but_kernels_imports_triton():
    for file in files():
        if not file.name.startswith("triton_"):
            assert not re.search(r"(import|from) triton\b", file.read_text()), file


def test_no_two_files_have_one_of_these_names():
    for name in ("console", "folder", "model", "checkpoint", "benchmark"):
        found = [path for path in ROOT.rglob("*") if path.stem == name and path.suffix in ("", ".py")]
        assert len(found) <= 1, found
