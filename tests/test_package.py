"""What is shipped: the wheel, built here, and its metadata."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = out.glob("*.whl")
    return zipfile.ZipFile(file)


def test_the_wheel_holds_code_recipes_images_and_licences(wheel):
    names = set(wheel.namelist())
    package = ROOT / "src" / "gmsop"
    expected = {f"gmsop/{f.relative_to(package)}" for f in package.rglob("*") if f.is_file() and f.suffix != ".pyc"}
    assert expected <= names
    assert {"gmsop/py.typed", "gmsop/data/eurosat_sample.zip", "gmsop/data/eurosat_sample.LICENSE",
            "gmsop/training/recipes/imagenet64/gm_sop_16_8_resnet18.yaml"} <= expected  # fmt: skip
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if "tests" in name or "golden" in name]


def test_the_sample_keeps_its_attribution():
    text = (ROOT / "src" / "gmsop" / "data" / "eurosat_sample.md").read_text()
    for words in ("Helber", "MIT", "2019", "Contains Copernicus Sentinel data"):
        assert words in text
    assert "Patrick Helber" in (ROOT / "src" / "gmsop" / "data" / "eurosat_sample.LICENSE").read_text()


@pytest.mark.slow
def test_submodules_are_there_after_the_import():
    code = "import gmsop; print(gmsop.data.PackedDataset.__name__, gmsop.convert.load_matconvnet.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["PackedDataset", "load_matconvnet"]


def test_golden_vectors_stay_small():
    assert sum(f.stat().st_size for f in (ROOT / "tests" / "golden").rglob("*")) < 20e6


def test_the_oldest_versions_tested_are_those_allowed():
    allowed = re.findall(
        r'^  "([a-z0-9]+)(?:\[\w+\])?>=([0-9.]+)(?:,!=[0-9.]+)*",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    tested = re.findall(r"^([a-z0-9]+)==([0-9.]+)$", (ROOT / "tests" / "oldest.txt").read_text(), re.MULTILINE)
    assert len(allowed) > 10
    assert [name for name, _ in allowed] == [name for name, _ in tested]
    assert all(f"{exact}.".startswith(f"{least}.") for (_, least), (_, exact) in zip(allowed, tested, strict=True))
