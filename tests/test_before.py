"""Files written before a model was described by a `ModelSpec` still load, and a run of that time goes on."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from before.before_set import make_set
from before.ten_steps import machine, ten_steps
from compare import relative_error
from gmsop.cli import main
from gmsop.weights import load_model

BEFORE = Path(__file__).parent / "before"
EXPECTED = json.loads((BEFORE / "expected.json").read_text())


def test_a_model_file_gives_the_same_answers():
    model = load_model(BEFORE / "model.safetensors")
    assert (model.gate.top_k, model.pool.components[0].pool.num_iters, model.drop.p) == (2, 5, 0.1)
    assert (model.pretrained_cfg["label_names"], model.pretrained_cfg["std"]) == (["a", "b", "c"], (0.5, 0.5, 0.5))
    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32).sin()
    with torch.no_grad():
        assert relative_error(model(images), torch.tensor(EXPECTED["logits"])) < 1e-5


def test_a_run_stopped_within_an_epoch_goes_on(tmp_path):
    """By `gmsop train --resume`, to what the version that began it would have ended with."""
    make_set(tmp_path / "set")
    shutil.copytree(BEFORE / "run", tmp_path / "run")
    assert "optimizer" not in yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert main(["train", "--resume", str(tmp_path / "run"), "--data", str(tmp_path / "set")]) == 0
    found = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    expected = list(csv.DictReader(io.StringIO(EXPECTED["metrics"])))
    assert [row["epoch"] for row in found] == ["0", "1", "2"]
    for row, wanted in zip(found, expected, strict=True):
        assert {k: float(v) for k, v in row.items()} == pytest.approx(
            {k: float(v) for k, v in wanted.items()}, rel=1e-3
        )


@pytest.mark.parametrize(
    "row",
    [
        "imagenet64/gm_sop_16_8_resnet18",
        "imagenet64/gm_gap_16_8_resnet18_flips_added",
        "places365/sr_sop_resnet18",
    ],
)
def test_ten_steps_of_a_published_row_end_with_the_same_bits(row, tmp_path):
    """All 21: `python tests/before/ten_steps.py`, which writes the file that this compares with."""
    expected = json.loads((BEFORE / "ten_steps.json").read_text())
    if expected["machine"] != machine():
        pytest.skip(f"written on another processor or PyTorch: {expected['machine']}")
    assert ten_steps(row, tmp_path) == expected["rows"][row]
