import json

import numpy as np
import pytest
from PIL import Image
from release import release

from gmsop.cli import main
from gmsop.data import PackedDataset, PackedWriter, contact_sheet, inspect_set
from gmsop.errors import DataError


@pytest.fixture
def mixed(tmp_path, sample):
    """Seven training images of two of three classes; val holds two of them again and one of its own."""
    images = PackedDataset(sample, "train").images
    path = tmp_path / "set"
    with PackedWriter(path, 64, {"train": 7, "val": 3}, ["ash", "b\u00fcche", "elm"], "a test", "box") as writer:
        for i in (*range(7), 4, 9, 2):
            writer.add(images[i], 0 if i < 5 else 1)
    return path


def test_findings(mixed, sample):
    found = inspect_set(mixed)
    assert found.class_counts == {"train": [5, 2, 0], "val": [2, 1, 0]}
    assert found.duplicates == [(4, 0), (2, 2)]
    pixels = PackedDataset(sample, "train").images[:7].reshape(-1, 3).astype(float)
    np.testing.assert_allclose(found.rgb_mean, pixels.mean(0))
    np.testing.assert_allclose(found.rgb_std, pixels.std(0))


def test_commands(mixed, tmp_path, capfd):
    assert main(["data", "inspect", str(mixed)]) == 0
    printed = capfd.readouterr().out
    assert "without a training image: elm" in printed
    assert "equal in every pixel: 2 images of val stand in train, too" in printed
    assert "train 4 (ash) = val 0 (ash)" in printed
    with Image.open(f"{mixed}.png") as sheet:
        assert sheet.size == (800, 114)
    assert main(["data", "verify", str(mixed)]) == 0
    file = mixed / "images.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert main(["data", "verify", str(mixed)]) == 1
    assert "damaged" in capfd.readouterr().err
    assert main(["data", "inspect", str(tmp_path)]) == 1
    (mixed / "labels.npy").unlink()
    assert main(["data", "verify", str(mixed)]) == 1
    assert "labels.npy: missing" in capfd.readouterr().err


def test_the_sheet_of_the_folder_one_is_in(mixed, monkeypatch):
    monkeypatch.chdir(mixed)
    assert main(["data", "inspect", "."]) == 0
    assert mixed.with_name("set.png").is_file()


def test_a_sheet_of_a_split_that_is_not_there(mixed, tmp_path):
    contact_sheet(mixed, tmp_path / "val.png", "val")
    with pytest.raises(DataError, match="no split"):
        contact_sheet(mixed, tmp_path / "x.png", "test")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["places365", "--shard=half"], "--shard is I/N"),
        (["folder", "--on_error=maybe"], "on_error"),
        (["imagenet", "--size=63"], "63"),
        (["imdb", "--class_names=/nowhere"], "cannot be read"),
        (["tiny-imagenet"], "expected train/WNID/images"),
    ],
)
def test_prepare_mistakes(argv, message, tmp_path, capfd):
    status = main(["prepare", argv[0], f"--source={tmp_path / 'x'}", f"--out={tmp_path / 'set'}", *argv[1:]])
    assert status == 1
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(("kind", "option"), [("imagenet", "--filter"), ("imdb", "--shard"), ("folder", "--md5")])
def test_a_source_has_its_own_options_alone(kind, option, tmp_path, capfd):
    with pytest.raises(SystemExit) as stop:
        main(["prepare", kind, f"--source={tmp_path / 'x'}", f"--out={tmp_path / 'set'}", f"{option}=1/2"])
    assert stop.value.code == 2
    assert f"unknown option '{option}'" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        main(["prepare", kind, "--help"])
    assert option not in capfd.readouterr().out


def test_prepare_prints_what_it_made(tmp_path, sample, capfd):
    release(tmp_path / "down", sample, "npz")
    assert main(["prepare", "imagenet", f"--source={tmp_path / 'down'}", f"--out={tmp_path / 'set'}"]) == 0
    assert "30 train, 3 val, 1000 classes, 64 x 64 pixels" in capfd.readouterr().out


def test_a_description_without_its_source_is_damaged(mixed, capfd):
    meta = json.loads((mixed / "meta.json").read_text())
    del meta["source"]
    (mixed / "meta.json").write_text(json.dumps(meta))
    assert main(["data", "inspect", str(mixed)]) == 1
    assert "meta.json: damaged" in capfd.readouterr().err
    assert main(["data", "verify", str(mixed), "--sheet=x.png"]) == 1


def test_a_set_that_has_only_val(tmp_path, capfd):
    with PackedWriter(tmp_path / "set", 8, {"val": 2}, ["a", "b"], "", "box") as writer:
        for label in range(2):
            writer.add(np.full((8, 8, 3), label, np.uint8), label)
    assert main(["data", "inspect", str(tmp_path / "set")]) == 0
    assert (tmp_path / "set.png").exists()
