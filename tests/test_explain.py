"""Explanations add up to what they explain, for every head, and their sheet and page can be written."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import gmsop
from gmsop.cli import main
from gmsop.data.image_sources import image_of
from gmsop.data.preprocess import Preprocess
from gmsop.errors import ConfigError, UnknownNameError
from gmsop.evaluation.explanation import explain

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def made(name, **options):
    torch.manual_seed(0)
    model = gmsop.create_model(name, num_classes=4, **options).eval()
    if model.gate is not None:
        torch.nn.init.normal_(model.gate.weight, std=0.01)
    torch.nn.init.normal_(model.fc.bias)
    return model


@pytest.mark.parametrize("name", ["gap_tiny", "sr_sop_tiny", "gm_sop_4_2_tiny", "gm_gap_4_2_tiny"])
def test_contributions_add_up(name):
    """BatchNorm of a fresh model multiplies by almost one, so the logit is linear in the vectors but for the bias."""
    model = made(name)
    found = explain(model, image_of(PIXELS))
    best = found.classes[0][0]
    assert found.explained == best
    with torch.no_grad():
        logits = model(Preprocess.of(model.pretrained_cfg).input(torch.tensor(PIXELS)[None]))[0]
    assert found.logit == pytest.approx(float(logits[int(best)]), rel=1e-3, abs=1e-4)
    total = sum(float(part.contributions.sum()) for part in found.parts)
    degree = 1 if name.startswith(("gap", "gm_gap")) else 0.5
    assert total == pytest.approx(degree * (found.logit - float(model.fc.bias[int(best)].detach())), rel=1e-3, abs=1e-4)
    for part in found.parts:
        assert float(part.energy.sum()) == pytest.approx(1, abs=1e-4)
        pairs = part.strongest(10**6)
        assert sum(value for *_, value in pairs) == pytest.approx(float(part.contributions.sum()), rel=1e-6, abs=1e-9)
        assert [abs(v) for *_, v in pairs] == sorted((abs(v) for *_, v in pairs), reverse=True)
    if model.gate is not None:
        assert sum(part.weight for part in found.parts) == pytest.approx(1, abs=1e-5)
        assert len({part.component for part in found.parts}) == 2


def test_a_pair_counts_as_much_as_the_logit_falls_without_it():
    """With the covariance as it is (no root), taking a channel pair's covariance away takes its share off the logit."""
    torch.manual_seed(0)
    model = gmsop.attach("test_resnet", "sr_sop", 3, reduced_dim=6, root="none").eval()
    found = explain(model, image_of(PIXELS), "2")
    (part,) = found.parts
    i, j, value = next(pair for pair in part.strongest(20) if pair[0] != pair[1])
    x = torch.from_numpy(part.features).double().flatten(1)
    x = x - x.mean(1, keepdim=True)
    cov = x @ x.T / x.shape[1]
    place = torch.zeros(6, 6)
    place[i, j] = 1
    index = int(gmsop.ops.triu_vectorize((place + place.T)[None])[0].argmax())
    assert value == pytest.approx(float(model.fc.weight[2, index].detach()) * float(cov[i, j]), rel=1e-4)


def test_the_model_is_as_before():
    model = made("gm_sop_4_2_tiny")
    inputs = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        before = model(inputs)
    explain(model, image_of(PIXELS))
    with torch.no_grad():
        assert torch.equal(model(inputs), before)
    assert all(p.grad is None for p in model.parameters())


def test_several_layers():
    torch.manual_seed(0)
    model = gmsop.attach("test_resnet", "sr_sop", 3, layers=[-2, -1], reduced_dim=8).eval()
    assert [part.name for part in explain(model, image_of(PIXELS)).parts] == ["layer 1", "layer 2"]


def test_tokens_are_laid_out_as_patches():
    """A vision transformer whose patches are the pixels' own means: the energy is where the image varies."""
    torch.manual_seed(0)
    model = gmsop.attach("test_vit", "sr_sop", 3).eval()
    pixels = np.full((160, 160, 3), 128, np.uint8)
    pixels[:32, -32:] = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    (part,) = explain(model, image_of(pixels)).parts
    side = part.energy.shape[0]
    assert part.energy.shape == (side, side) == part.features.shape[1:]
    row, column = np.unravel_index(part.energy.argmax(), part.energy.shape)
    assert row < side / 2 < column + 1


def test_what_cannot_be_explained():
    model = made("gap_tiny")
    model.pretrained_cfg["label_names"] = ["river", "lake", "sea", "road"]
    with pytest.raises(UnknownNameError, match="Nearest: river"):
        explain(model, image_of(PIXELS), "rivers")
    with pytest.raises(ConfigError, match="a classifier"):
        explain(gmsop.create_model("gap_tiny", num_classes=0), image_of(PIXELS))


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gmsop.save_model(made("gm_sop_4_2_tiny"), "m.safetensors")
    Image.fromarray(PIXELS).save("<b>&.png")
    words = ["explain", "m.safetensors", "<b>&.png", "nowhere.png", "--html", "e.html"]
    assert main([*words, "--json"]) == 1
    printed = capsys.readouterr()
    assert "nowhere.png: no such file" in printed.err
    (found,) = map(json.loads, printed.out.splitlines())
    assert len(found["parts"]) == 2
    assert len(found["parts"][0]["pairs"]) == 5
    with Image.open("explained.png") as sheet:
        assert sheet.size[0] > 900
    page = (tmp_path / "e.html").read_text()
    assert "&lt;b&gt;&amp;.png" in page
    assert "<b>&" not in page
    assert page.count("<caption>") == 2
    assert main(words) == 1
    assert "is there already" in capsys.readouterr().err
    assert main([*words[:3], "--class_name", (other := str((int(found["class"]) + 1) % 4)), "--overwrite"]) == 0
    assert f"; explained is {other}, " in capsys.readouterr().out
    assert main([*words[:3], "--out", "x.png", "--html", "x.png"]) == 1
    assert "both name x.png" in capsys.readouterr().err
    assert main([*words[:3], "--out", "x.jpg"]) == 1
    assert "the sheet is a .png" in capsys.readouterr().err
    assert main([*words[:2], "nowhere.png", "--overwrite"]) == 1
    assert "no image to explain" in capsys.readouterr().err
