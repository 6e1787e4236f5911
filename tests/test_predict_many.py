"""Predictions for many images: as for one, in order, whatever cannot be read, and gone on with after a kill."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from itertools import count, islice

import numpy as np
import pytest
import torch
from PIL import Image

import gmsop
from gmsop.cli import main
from gmsop.data.image_sources import iter_images
from gmsop.errors import ConfigError, DataError
from gmsop.evaluation.outputs.registry import OUTPUT_FORMS


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = gmsop.create_model("gm_sop_4_2_tiny", num_classes=5).eval()
    torch.nn.init.normal_(made.gate.weight)
    return made


@pytest.fixture(scope="module")
def model_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    gmsop.save_model(model, path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folders with 21 images, a file that is none, and hidden things."""
    folder = tmp_path_factory.mktemp("many photos")
    rng = np.random.default_rng(0)
    for number in range(21):
        place = folder / ("b" if number % 2 else "A a")
        place.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40 + number, 50, 3), np.uint8)).save(place / f"{number}.PNG")
    (folder / "b" / "broken.jpg").write_bytes(b"nothing")
    (folder / "b" / "notes.txt").write_text("no image")
    (folder / ".hidden").mkdir()
    Image.new("RGB", (9, 9)).save(folder / ".hidden" / "x.png")
    return folder


@pytest.mark.parametrize("settings", [{"num_workers": 0}, {"num_workers": 3}, {"devices": ["cpu", "cpu"]}], ids=str)
def test_many_are_as_each_alone(model, photos, settings):
    paths = sorted(photos.glob("*/*.PNG"))
    found = list(gmsop.predict(model, paths, 2, batch_size=4, **settings))
    assert [each.name for each in found] == list(map(str, paths))
    for path, each in zip(paths, found, strict=True):
        alone = gmsop.predict(model, path, 2)
        assert [name for name, _ in each.classes] == [name for name, _ in alone.classes]
        assert [p for _, p in each.classes] == pytest.approx([p for _, p in alone.classes], abs=1e-5)
        assert [n for n, _ in each.components] == [n for n, _ in alone.components]


def test_images_of_pillow_and_pixels(model, photos):
    path = next(photos.glob("*/0.PNG"))
    image = Image.open(path)
    by_path, by_image, by_pixels = gmsop.predict(model, iter([path, image, np.asarray(image)]))
    for other in (by_image, by_pixels):
        assert dict(other.classes) == pytest.approx(dict(by_path.classes), abs=1e-5)
    assert gmsop.predict(model, np.asarray(image)).name == "image 0"
    with pytest.raises(ConfigError, match="uint8"):
        gmsop.predict(model, np.zeros((4, 4, 3)))
    with pytest.raises(ConfigError, match="image 0: a path"):
        list(gmsop.predict(model, [7]))


def test_a_stream_without_end_is_read_as_needed(model):
    taken = []

    def pixels():
        for number in count():
            taken.append(number)
            yield np.full((8, 8, 3), number % 256, np.uint8)

    assert len(list(islice(gmsop.predict(model, pixels(), batch_size=2), 6))) == 6
    assert len(taken) < 30


def test_an_image_that_cannot_be_read(model, photos):
    paths = [photos / "b" / "broken.jpg", photos / "b" / "1.PNG"]
    with pytest.raises(DataError, match=r"broken\.jpg: not an image"):
        list(gmsop.predict(model, paths))
    broken, good = gmsop.predict(model, paths, on_error="skip")
    assert "not an image" in broken.error
    assert good.error is None
    with pytest.raises(ConfigError, match="on_error"):
        gmsop.predict(model, paths, on_error="ignore")


@pytest.mark.parametrize(
    "settings", [{"batch_size": 0}, {"num_workers": -1}, {"precision": "8"}, {"devices": "99"}, {"devices": "gpu:x"}],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be(model, settings):
    with pytest.raises(ConfigError):
        list(gmsop.predict(model, [], **settings))


def test_auto_takes_whatever_accelerator_there_is(model, monkeypatch):
    """Here with a stand-in: two devices of a kind that is not CUDA."""
    from gmsop.evaluation.batches import _replicas

    taken = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: taken.append(str(device)) or self)
    for devices in ("auto", "2"):
        taken.clear()
        assert len(_replicas(model, devices)) == 2
        assert taken == ["mps:0", "mps:1"]


def test_words_become_images_in_order(photos, tmp_path):
    shard = tmp_path / "shard.tar.gz"
    with tarfile.open(shard, "w:gz") as tar:
        tar.add(photos / "b", "./inner")
    listed = io.StringIO(f"{photos}/b/1.PNG\n\nnowhere.jpg\r\n")
    words = [str(photos / "b" / "3.PNG"), str(photos), f"{photos}/*/1[0-2].PNG", str(shard), "-", str(tmp_path / "no*")]
    names = [image.name for image in iter_images(words, listed)]
    assert names[0] == words[0]
    folder = names[1:23]  # b has a broken one, too; hidden folders and other files do not count
    assert folder == sorted(folder)
    assert len({*folder}) == 22
    assert [name.rpartition("/")[2] for name in names[23:26]] == ["10.PNG", "12.PNG", "11.PNG"]
    inside = names[26:37]
    assert all(name.startswith(f"{shard}/./inner/") for name in inside)
    assert len(inside) == 11
    assert names[37:] == [f"{photos}/b/1.PNG", "nowhere.jpg", str(tmp_path / "no*")]


def test_a_damaged_shard_does_not_stop_the_others(model_file, photos, tmp_path, capsys):
    (tmp_path / "x.tar").write_bytes(b"no tar file")
    words = [str(model_file), str(tmp_path / "x.tar"), str(photos / "b" / "1.PNG"), "--json", "--top", "1"]
    assert main(["predict", *words]) == 1
    printed = capsys.readouterr()
    assert "no tar file" in printed.err
    first, second = map(json.loads, printed.out.splitlines())
    assert "error" in first
    assert len(second["class"]) == 1


@pytest.mark.parametrize("form", [form.name for form in OUTPUT_FORMS])
def test_every_form_says_the_same(model, model_file, photos, tmp_path, form, capsys):
    pandas = pytest.importorskip("pandas")
    out = tmp_path / f"new/answers{OUTPUT_FORMS[form].suffix}"
    words = ["predict", str(model_file), str(photos), "--top", "2", "--out", str(out), "--batch_size", "4"]
    assert main(words) == 1
    assert "1 of 22 images could not be read" in capsys.readouterr().err
    table = {
        "jsonl": lambda: pandas.read_json(out, lines=True),
        "csv": lambda: pandas.read_csv(out),
        "parquet": lambda: pandas.read_parquet(out),
    }[form]()
    expected = list(gmsop.predict(model, (image for image in sorted(map(str, photos.glob("[!.]*/*.PNG"))))))
    read = table[table["error"].isna()]
    assert list(read["image"]) == [each.name for each in expected]
    first = read["class_1"].astype(int).astype(str) if form == "csv" else read["class"].map(lambda names: names[0])
    assert list(first) == [each.classes[0][0] for each in expected]
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name]
    assert main(words) == 1
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 1


def test_gone_on_with_after_half_a_line(model_file, photos, tmp_path, capsys):
    whole, out = tmp_path / "whole.csv", tmp_path / "answers.csv"
    words = ["predict", str(model_file), str(photos), "--batch_size", "3"]
    main([*words, "--out", str(whole)])
    main([*words, "--out", str(tmp_path / "lines.jsonl")])
    lines = (tmp_path / "lines.jsonl").read_text().splitlines(keepends=True)
    part = tmp_path / ".answers.csv.unfinished"
    of = _header(model_file)
    part.write_text(of + "".join(lines[:7]) + lines[7][:20])
    assert main([*words, "--out", str(out)]) == 1
    assert "--resume goes on with it" in capsys.readouterr().err
    assert main([*words, "--out", str(out), "--resume"]) == 1
    assert "goes on after 7 images" in capsys.readouterr().err
    assert out.read_bytes() == whole.read_bytes()
    part.write_text(of.replace('"top": 5', '"top": 3'))
    assert main([*words, "--out", str(tmp_path / "answers.csv"), "--resume"]) == 1
    out.unlink()
    assert main([*words, "--out", str(out), "--resume"]) == 1
    assert "begun with another top" in capsys.readouterr().err
    part.write_text(of + lines[3])
    assert main([*words, "--out", str(out), "--resume"]) == 1
    assert "image 1 was" in capsys.readouterr().err


def _header(model_file):
    from gmsop.evaluation.unfinished import made_by

    of = made_by(gmsop.load_model(model_file), "32-true", True) | {"top": 5}
    return json.dumps({"of": of}) + "\n"


def test_a_replacement_that_was_killed_is_gone_on_with(model_file, photos, tmp_path, monkeypatch, capsys):
    from gmsop.evaluation.unfinished import Unfinished

    def dies(self, form, fields):
        raise KeyboardInterrupt

    out = tmp_path / "answers.csv"
    out.write_text("old")
    words = ["predict", str(model_file), str(photos), "--out", str(out)]
    monkeypatch.setattr(Unfinished, "finish", dies)
    assert main([*words, "--overwrite"]) == 130
    monkeypatch.undo()
    assert out.read_text() == "old"
    assert main([*words, "--resume", "--overwrite"]) == 1
    assert "not both" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 1
    assert "goes on after 22 images" in capsys.readouterr().err
    assert len(out.read_text().splitlines()) == 23
    assert main([*words, "--resume"]) == 1
    assert "it is complete" in capsys.readouterr().err


@pytest.mark.xdist_group("processes")
def test_killed_and_gone_on_with(model_file, photos, tmp_path, monkeypatch):
    """A list from standard input that is slow to come, a kill in its middle, and the same file in the end."""
    whole, out = tmp_path / "whole.jsonl", tmp_path / "answers.jsonl"
    paths = sorted(map(str, photos.glob("b/*.PNG"))) * 5
    listed = "".join(f"{path}\n" for path in paths)
    words = ["predict", str(model_file), "-", "--batch_size", "2"]
    part = tmp_path / ".answers.jsonl.unfinished"
    begun = subprocess.Popen(
        [sys.executable, "-m", "gmsop.cli", *words, "--out", str(out)],
        stdin=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    for path in paths[:40]:
        begun.stdin.write(f"{path}\n")
    begun.stdin.flush()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not part.exists() or part.read_bytes().count(b"\n") < 8):
        time.sleep(0.05)
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    assert not out.exists()
    assert part.read_bytes().count(b"\n") >= 8
    for target, more in ((out, ["--resume"]), (whole, [])):
        monkeypatch.setattr(sys, "stdin", io.StringIO(listed))
        assert main([*words, "--out", str(target), *more]) == 0
    assert [json.loads(line)["image"] for line in out.read_text().splitlines()] == paths
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--out", "x.txt"], "no form of output"),
        (["--form", "parquet"], "needs --out"),
        (["--resume"], "go with --out"),
        (["--form", "cvs"], "Nearest: csv"),
        (["--top", "0"], "--top must be at least 1"),
        (["--json", "--form", "csv"], "--json and --form csv: one of them"),
        (["--json", "--out", "x.csv"], "x.csv is a file of the form csv"),
    ],
)
def test_wrong_words(model_file, photos, words, text, capsys):
    assert main(["predict", str(model_file), str(photos), *words]) == 1
    assert text in capsys.readouterr().err


def test_a_full_disk_keeps_what_was_there(model_file, photos, tmp_path, capsys):
    import errno

    from gmsop.evaluation.unfinished import Appender

    def full(self, records):
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "a.csv"
    out.write_text("old")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Appender, "__call__", full)
        assert main(["predict", str(model_file), str(photos), "--out", str(out), "--overwrite"]) == 1
    assert "no space left on the disk" in capsys.readouterr().err
    assert out.read_text() == "old"


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"label_names": list("edcba")}, "another class names"), ({"mean": (0.1, 0.2, 0.3)}, "another preparation")],
)
def test_answers_of_another_preparation_or_naming_are_not_gone_on_with(
    model_file, photos, tmp_path, changes, text, capsys
):
    """The weights are the same, and the answers would not be."""
    other = gmsop.load_model(model_file)
    other.pretrained_cfg.update(changes)
    gmsop.save_model(other, tmp_path / "other.safetensors")
    out = tmp_path / "answers.csv"
    (tmp_path / ".answers.csv.unfinished").write_text(_header(model_file))
    assert main(["predict", str(tmp_path / "other.safetensors"), str(photos), "--out", str(out), "--resume"]) == 1
    assert text in capsys.readouterr().err


def test_the_model_is_left_in_its_mode(model, photos):
    paths = sorted(photos.glob("b/*.PNG"))
    model.train()
    model.gate.eval()
    try:
        gmsop.predict(model, paths[0])
        assert model.training
        assert not model.gate.training
        next(gmsop.predict(model, paths, batch_size=2))
        assert model.training
        assert list(gmsop.predict(model.eval(), paths, 1)) == list(gmsop.predict(model.train(), paths, 1))
        assert model.training
    finally:
        model.eval()


def test_a_model_that_gives_no_numbers_has_no_answer(model, model_file, photos, tmp_path, capsys):
    broken = gmsop.load_model(model_file)
    with torch.no_grad():
        broken.fc.weight[2, 3] = torch.nan
    gmsop.save_model(broken, tmp_path / "broken.safetensors")
    path = next(photos.glob("b/*.PNG"))
    with pytest.raises(DataError, match="not a number"):
        gmsop.predict(broken, path)
    assert next(gmsop.predict(broken, [path], on_error="skip")).classes == []
    for words in (["predict"], ["predict", "--json"], ["explain", "--out", str(tmp_path / "x.png")]):
        assert main([words[0], str(tmp_path / "broken.safetensors"), str(path), *words[1:]]) == 1
        printed = capsys.readouterr()
        assert "not a number" in printed.err
        assert "NaN" not in printed.out


def test_a_model_in_a_wrapping(model, photos):
    path = next(photos.glob("b/*.PNG"))
    expected = gmsop.predict(model, path)
    for wrapped in (torch.nn.DataParallel(model), torch.compile(model, backend="eager")):
        found = gmsop.predict(wrapped, path)
        assert [name for name, _ in found.classes] == [name for name, _ in expected.classes]


def test_what_is_no_model_of_ours(photos):
    import timm

    path = next(photos.glob("b/*.PNG"))
    for other in (timm.create_model("test_resnet"), torch.nn.Linear(2, 2)):
        with pytest.raises(ConfigError, match=r"got a (ResNet|Linear): gmsop.attach"):
            gmsop.predict(other, path)


def test_pixels_of_which_the_range_is_not_known(model):
    for image in (Image.new("I", (9, 9), 200), Image.new("F", (9, 9), 0.5)):
        with pytest.raises(DataError, match="of which the range is not known"):
            gmsop.predict(model, image)
    with pytest.raises(ConfigError, match="no pixels"):
        gmsop.predict(model, np.zeros((0, 5, 3), np.uint8))


def test_a_tar_file_that_was_cut_between_two_images(photos, tmp_path):
    whole = tmp_path / "shard.tar"
    with tarfile.open(whole, "w") as shard:
        for path in sorted(photos.glob("b/*.PNG"))[:3]:
            shard.add(path, path.name)
    with tarfile.open(whole) as shard:
        second = shard.getmembers()[1].offset
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:second])
    assert [each.decode(True).size for each in iter_images([str(whole)])] == [(50, 41), (50, 51), (50, 53)]
    first, last = iter_images([str(cut)])
    assert first.decode(True).size == (50, 41)
    with pytest.raises(DataError, match="without the mark of its end"):
        last.decode(True)
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.tar.png")
    assert next(iter_images([str(tmp_path / "photo.tar.png")])).decode(True).size == (9, 9)


def test_no_images_leave_no_file(model_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["predict", str(model_file), "-", "--out", str(tmp_path / "e.csv")]) == 1
    assert "there are no images" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")]
