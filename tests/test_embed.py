"""Vectors are what the model pools, in order, and gone on with after a kill; neighbours and recall are theirs."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

import gmsop
from gmsop.cli import main
from gmsop.data.image_sources import image_of
from gmsop.errors import ConfigError, DataError
from gmsop.evaluation.embedding import Whitening, embedded, nearest, recall_at


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = gmsop.create_model("gm_sop_4_2_tiny", num_classes=3).eval()
    torch.nn.init.normal_(made.gate.weight, std=0.01)
    return made


@pytest.fixture(scope="module")
def model_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    gmsop.save_model(model, path)
    return str(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(12):
        place = folder / f"class {number % 3}"
        place.mkdir(exist_ok=True)
        base = np.zeros((40, 40, 3)) + 80 * np.eye(3)[number % 3] + rng.integers(0, 60, (40, 40, 1))
        Image.fromarray(base.astype(np.uint8)).save(place / f"{number}.png")
    return folder


def test_vectors_are_what_the_model_pools(model, photos):
    paths = sorted(photos.glob("*/*.png"))
    images = torch.stack([torch.from_numpy(np.array(Image.open(path).resize((64, 64), 4))) for path in paths])
    from gmsop.data.preprocess import Preprocess

    inputs = Preprocess.of(model.pretrained_cfg).input(images)
    with torch.no_grad():
        features = model.forward_features(inputs)
        wanted = {
            "pooled": model.forward_head(features, pre_logits=True),
            "ungated": sum(component(features) for component in model.pool.components) / 4,
            "average": features.mean((2, 3)),
        }
    for kind, expected in wanted.items():
        found = list(embedded(model, map(image_of, paths), kind, normalize=False, batch_size=5))
        assert [each.name for each in found] == list(map(str, paths))
        torch.testing.assert_close(
            torch.from_numpy(np.stack([each.vector for each in found])), expected, atol=2e-4, rtol=2e-3
        )
    (one,) = embedded(model, [image_of(paths[0])])
    assert np.linalg.norm(one.vector) == pytest.approx(1, abs=1e-5)


def test_whitening(model, photos, tmp_path):
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(200, 20)) * np.arange(1, 21)).astype(np.float32)
    whitening = Whitening.fit(vectors, 8)
    white = whitening(vectors)
    np.testing.assert_allclose(np.cov(white.T), np.eye(8), atol=1e-3)
    whitening.save(tmp_path / "w.npz")
    np.testing.assert_array_equal(Whitening.load(tmp_path / "w.npz")(vectors), white)
    with pytest.raises(ConfigError, match="allow up to 20"):
        Whitening.fit(vectors, 21)
    (tmp_path / "bad.npz").write_text("x")
    with pytest.raises(DataError, match="no whitening"):
        Whitening.load(tmp_path / "bad.npz")
    with pytest.raises(ConfigError, match="whitening of vectors of 20"):
        list(embedded(model, [image_of(next(photos.glob("*/*.png")))], whitening=whitening))


def test_neighbours_and_recall_by_hand():
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [0.6, 0.5]], np.float32)
    rows, scores = nearest(vectors, np.array([[0, 1]], np.float32), 2)
    assert rows.tolist() == [[2, 3]]
    assert scores[0].tolist() == pytest.approx([1, 0.9])
    # The first four find their like; the last one's nearest, of class 0, is not its, its second, of class 1, is.
    assert recall_at(vectors, [0, 0, 1, 1, 1], (1, 2)) == pytest.approx({1: 80.0, 2: 80.0})
    assert recall_at(vectors, [0, 0, 1, 1, 1], (3, 9)) == pytest.approx({3: 100.0, 9: 100.0})
    with pytest.raises(DataError, match="at least two"):
        recall_at(vectors[:1], [0])


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_files_and_going_on(model_file, photos, tmp_path, suffix, capsys):
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"v{suffix}"
    (photos / "class 0" / "broken.png").write_bytes(b"nothing")
    words = ["embed", model_file, str(photos), "--batch_size", "4"]
    assert main([*words, "--out", str(whole)]) == 1
    assert "12 vectors of" in capsys.readouterr().out
    from gmsop.evaluation import vector_files

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError):
        real = vector_files.VectorFile.collect

        def dies(self, found):
            for number, each in enumerate(real(self, found)):
                if number == 6:
                    raise RuntimeError("killed")
                yield each

        patch.setattr(vector_files.VectorFile, "collect", dies)
        main([*words, "--out", str(out)])
    with (tmp_path / f".v{suffix}.vectors").open("ab") as raw:
        raw.write(b"half a vector")
    assert main([*words, "--out", str(out)]) == 1
    assert "--resume goes on with it" in capsys.readouterr().err
    assert main([*words, "--out", str(out), "--resume"]) == 1
    assert "goes on after 7 images" in capsys.readouterr().err
    (photos / "class 0" / "broken.png").unlink()
    if suffix == ".npy":
        np.testing.assert_allclose(np.load(out), np.load(whole), atol=1e-6)
        names = json.loads(out.with_suffix(".json").read_text())
        assert names == sorted(str(path) for path in photos.glob("*/*.png"))
    else:
        pandas = pytest.importorskip("pandas")
        a, b = pandas.read_parquet(out), pandas.read_parquet(whole)
        assert list(a["image"]) == list(b["image"])
        np.testing.assert_allclose(np.stack(a["vector"]), np.stack(b["vector"]), atol=1e-6)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_file_is_not_gone_on_with_by_another_whitening(model_file, photos, tmp_path, monkeypatch, capsys):
    from gmsop.evaluation.vector_files import VectorFile

    def dies(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(VectorFile, "finish", dies)
    out = tmp_path / "v.npy"
    words = ["embed", model_file, str(photos), "--out", str(out), "--whiten", str(photos), "--whiten_dim"]
    assert main([*words, "4"]) == 130
    assert main([*words, "4"]) == 1
    assert "v.whitening.npz is there already" in capsys.readouterr().err
    assert main([*words, "5", "--resume"]) == 1
    assert "was begun with another whitening" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*words, "4", "--resume"]) == 0
    assert np.load(out).shape == (12, 4)


def test_nearest_and_recall_in_the_terminal(model_file, photos, capsys):
    query = str(photos / "class 1" / "4.png")
    assert main(["embed", model_file, str(photos), "--nearest", query, "--top", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nearest"][0] == {"image": query, "score": pytest.approx(1, abs=1e-5)}
    assert len(found["nearest"]) == 3
    assert main(["embed", model_file, "--recall", str(photos), "--vectors", "average", "--k", "1", "2"]) == 0
    assert "12 images: recall@1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "name images to embed"),
        (["x.png"], "say where the vectors go"),
        (["x.png", "--out", "v.csv"], r".npy or .parquet"),
        (["x.png", "--nearest", "nowhere.png"], "nowhere.png: no such file"),
        (["x.png", "--out", "v.npy", "--vectors", "gated"], "vectors are pooled, ungated, average"),
        (["x.png", "--out", "v.npy", "--whiten", "nowhere.npz"], "no whitening"),
        (["--recall", "nowhere"], "nowhere"),
        (["x.png", "--out", "v.npy", "--whiten_dim", "8"], "--whiten_dim goes with --whiten"),
    ],
)
def test_wrong_words(model_file, words, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["embed", model_file, *words]) == 1
    assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_names_without_vectors_are_embedded_again(model_file, photos, tmp_path, monkeypatch, capsys):
    """As a power cut may leave it: more names on the disk than vectors."""
    from gmsop.evaluation.vector_files import VectorFile

    def dies(self):
        raise KeyboardInterrupt

    words = ["embed", model_file, str(photos), "--out"]
    assert main([*words, str(tmp_path / "whole.npy")]) == 0
    for left in (0, 5 * 4 * 528 + 7):
        out = tmp_path / f"v{left}.npy"
        with monkeypatch.context() as patch:
            patch.setattr(VectorFile, "finish", dies)
            assert main([*words, str(out)]) == 130
        os.truncate(tmp_path / f".{out.name}.vectors", left)
        capsys.readouterr()
        assert main([*words, str(out), "--resume"]) == 0
        assert left == 0 or "goes on after 5 images" in capsys.readouterr().err
        assert np.array_equal(np.load(out), np.load(tmp_path / "whole.npy"))


def test_a_whitening_of_something_else_is_refused(model_file, photos, tmp_path, capsys):
    out, file = tmp_path / "v.npy", tmp_path / "v.whitening.npz"
    words = ["embed", model_file, str(photos), "--out", str(out), "--whiten"]
    assert main([*words, str(photos), "--whiten_dim", "4"]) == 0
    before = file.read_bytes()
    assert main([*words, str(photos / "class 0"), "--whiten_dim", "2", "--resume"]) == 1
    assert "it is complete" in capsys.readouterr().err
    assert file.read_bytes() == before
    words = ["embed", model_file, str(photos), "--out", str(tmp_path / "w.npy"), "--whiten", str(file)]
    assert main([*words, "--whiten_dim", "3"]) == 1
    assert "leaves 4" in capsys.readouterr().err
    assert main([*words, "--vectors", "ungated"]) == 1
    assert "of another kind" in capsys.readouterr().err
    assert main(words) == 0
    assert np.array_equal(np.load(out), np.load(tmp_path / "w.npy"))


def test_recall_counts_what_cannot_be_read_and_needs_no_training_images(model_file, photos, tmp_path, capsys):
    import shutil

    shutil.copytree(photos, tmp_path / "data" / "test")
    for name in ("x", "y"):
        shutil.copytree(photos / "class 0", tmp_path / "data" / "train" / name)
    assert main(["embed", model_file, "--recall", str(tmp_path / "data")]) == 0
    assert "12 images: recall@1" in capsys.readouterr().out
    (tmp_path / "data" / "test" / "class 1" / "broken.png").write_bytes(b"nothing")
    assert main(["embed", model_file, "--recall", str(tmp_path / "data")]) == 1
    assert "1 of 13 images" in capsys.readouterr().err


def test_an_unrelated_list_of_names_is_kept(model_file, photos, tmp_path, capsys):
    (tmp_path / "v.json").write_text("mine")
    assert main(["embed", model_file, str(photos), "--out", str(tmp_path / "v.npy"), "--resume"]) == 1
    assert "v.json is there already" in capsys.readouterr().err
    assert (tmp_path / "v.json").read_text() == "mine"
