"""`gmsop probe`, `gmsop features`, and the page."""

import re

import pytest
from probe_sets import folder_of_images

from gmsop.cli import main
from gmsop.probe import Features

pytestmark = pytest.mark.filterwarnings("ignore::gmsop.errors.TrainingWarning")
SMALL = ["--backbone", "test_resnet", "--weights", "none", "--image_size", "64"]


def test_the_whole_command(tmp_path, capsys):
    data = folder_of_images(tmp_path / "a <b> set", each=8)
    out = tmp_path / "out"
    arguments = ["probe", *SMALL, "--data", str(data), "--out", str(out), "--dims", "8", "--folds", "2"]
    assert main(arguments) == 0
    printed, said = capsys.readouterr()
    assert "random weights" in said
    assert {file.name for file in out.iterdir()} == {
        "comparison.csv", "comparison.json", "features", "model.safetensors", "report.html",
    }  # fmt: skip
    page = (out / "report.html").read_text()
    rows = (out / "comparison.csv").read_text().splitlines()
    assert len(re.findall("<tr", page.split('id="results"')[1].split("</table>")[0])) == len(rows) == 7
    assert "a &lt;b&gt; set" in page
    assert "a <b> set" not in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    before = (out / "comparison.csv").read_text()
    assert main(arguments) == 0
    again = capsys.readouterr().out
    strip = lambda text: re.sub(r"\d+\.\d+ *$", "", text, flags=re.M)  # noqa: E731 - seconds end each line
    assert strip(printed) == strip(again)
    assert len((out / "comparison.csv").read_text().splitlines()) == len(before.splitlines())
    assert main(["predict", str(out / "model.safetensors"), str(data / "class 0" / "0.png")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(out / "model.safetensors"), "--data", str(data)]) == 0
    assert "the model was fitted to these images" in capsys.readouterr().err


def test_features(tmp_path, capsys):
    data = folder_of_images(tmp_path / "set", each=2)
    arguments = ["features", *SMALL, "--data", str(data), "--out", str(tmp_path / "f"), "--layers", "1", "features"]
    assert main(arguments) == 0
    assert "features of 6 images" in capsys.readouterr().out
    assert Features.open(tmp_path / "f").layers == ["layer1", "features"]


def test_the_list_of_heads(capsys):
    assert main(["probe", "--heads", "list"]) == 0
    assert "sim_pool" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--heads", "average"], "one of second order"),
        (["--heads", "averag", "second_order"], "average"),
        (["--folds", "9"], "fewer than 9 images"),
        (["--max_images", "1"], "max_images"),
        (["--layers", "layer9"], "unknown layer"),
        (["--data", "nowhere"], "no such folder"),
        (["--backbone", "resnet181"], "unknown timm model"),
        (["--weights", "missing.pth"], "no such file"),
    ],
)
def test_what_is_refused(tmp_path, capsys, extra, words):
    data = folder_of_images(tmp_path / "set", each=4)
    arguments = ["probe", *SMALL, "--data", str(data), "--out", str(tmp_path / "out"), "--folds", "2", *extra]
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_epochs_of_the_demo_are_of_training(capsys):
    assert main(["demo", "--epochs", "1"]) == 1
    assert "--from_scratch" in capsys.readouterr().err
