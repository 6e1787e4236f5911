"""What is somebody else's stays, and what could mean two things, or far more than it holds, is refused."""

import io
import os
import pickle
import zipfile
from contextlib import suppress

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from tiny import recipe

from gmsop.cli import main
from gmsop.data import PackedWriter
from gmsop.data.image_table import read_table
from gmsop.data.images import decode_rgb
from gmsop.data.prepare.class_folders import pack_folder
from gmsop.data.prepare.imagenet import Place, read_batch
from gmsop.data.prepare.imdb import pack_imdb
from gmsop.data.prepare.options import PackOptions
from gmsop.data.prepare.safe_pickle import load_arrays
from gmsop.errors import ConfigError, DataError, GmsopError
from gmsop.training.run import train
from gmsop.utils.files import WriteError, writing
from gmsop.utils.torch_files import load_plain


@pytest.fixture
def photos(tmp_path):
    for label in "ab":
        for i in range(3):
            path = tmp_path / "photos" / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((9, 9, 3), 20 * i + ord(label), np.uint8)).save(path)
    return tmp_path / "photos"


def test_postscript_under_the_name_of_a_photograph_starts_no_program(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    with pytest.raises(DataError, match="not an image"):
        decode_rgb(text, 8)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("name", [".set.parts", ".set.parts-done", ".set.part", ".set.old"])
def test_a_neighbour_of_a_hidden_name_is_left_alone(photos, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "precious.txt").write_text("x")
    with suppress(GmsopError):
        pack_folder(photos, tmp_path / "set", 8, val_fraction=0, options=PackOptions(overwrite=True))
    assert (tmp_path / name / "precious.txt").read_text() == "x"


def test_somebodys_file_of_the_locks_name_is_left_alone(photos, tmp_path):
    (tmp_path / ".set.lock").write_text("precious")
    with pytest.raises(WriteError, match="somebody's file"):
        pack_folder(photos, tmp_path / "set", 8, val_fraction=0)
    assert (tmp_path / ".set.lock").read_text() == "precious"


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "files.txt", "meta.json"])
def test_arrays_of_somebody_else_are_not_overwritten(photos, tmp_path, name):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / name).write_text("precious")
    with pytest.raises(DataError, match="something else than a packed set"):
        pack_folder(photos, tmp_path / "set", 8, val_fraction=0, options=PackOptions(overwrite=True))
    with pytest.raises(GmsopError), PackedWriter(tmp_path / "set", 8, {"train": 1}, ["a"], "", "box", overwrite=True):
        pass
    assert (tmp_path / "set" / name).read_text() == "precious"


@pytest.mark.parametrize("name", ["README.md", "config.json", "environment.json", "recipe.yaml", "hparams.yaml"])
def test_a_project_is_no_place_for_a_run(small_set, tmp_path, name):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / name).write_text("precious: 1")
    with pytest.raises(ConfigError, match=f"already holds.* {name}"):
        train(recipe(epochs=[1]), small_set, tmp_path / "project")
    assert (tmp_path / "project" / name).read_text() == "precious: 1"


def test_a_link_in_a_runs_folder_is_not_written_through(small_set, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "hparams.yaml").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"already holds hparams\.yaml"):
        train(recipe(epochs=[1]), small_set, tmp_path / "run")
    assert not (tmp_path / "elsewhere").exists()


def test_pipes_and_folders_are_not_replaced_by_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(WriteError, match="has that name"), writing(path):
            pass


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('path,label\n0.png,"dog\n1.png,cat\n2.png,dog"\n', "quotation mark"),
        ('path,label\n0.png,"cat"x\n', "quotation marks are wrong"),
        ("path,label,label\n0.png,a,b\n", "'label' and 'label'"),
        ("path,label,class\n0.png,a,b\n", "'label' and 'class'"),
        ("path,file,class\n0.png,1.png,b\n", "'path' and 'file'"),
    ],
)
def test_tables_that_could_mean_two_things(tmp_path, text, words):
    for i in range(3):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{i}.png")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("name", "words"),
    [("PL_TRAINER_FAST_DEV_RUN", "would change the run"), ("RANK", "it is the only one")],
)
def test_variables_that_would_change_a_run_unseen(small_set, tmp_path, monkeypatch, name, words):
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=words):
        train(recipe(epochs=[1]), small_set, tmp_path / "run", accelerator="cpu")
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_a_rank_that_is_no_number(monkeypatch, capfd):
    monkeypatch.setenv("RANK", "x")
    assert main(["models"]) == 1
    assert "RANK in the environment is 'x', no number" in capfd.readouterr().err


def test_archives_that_python_would_unpack_at_once(tmp_path):
    file = io.BytesIO()
    np.save(file, np.arange(1, 9))
    with zipfile.ZipFile(tmp_path / "val_data.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("labels.npy", file.getvalue())
        archive.writestr("data.npy", file.getvalue())
    with pytest.raises(DataError, match="method that is not read"):
        list(read_batch(Place(tmp_path / "val_data.npz", None), 8))


class Call:
    """A pickle that calls one function of the reader's many times on one text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self):
        import _codecs

        return _codecs.encode, (self.text, "latin1")


LONG = "b" * 10**6


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: [Call(LONG) for _ in range(300)], "far more"),
        (lambda: {i * (2**61 - 1): 0 for i in range(20_000)}, "a few entries"),
    ],
)
def test_pickles_that_make_more_than_they_hold(tmp_path, content, words):
    (tmp_path / "x").write_bytes(pickle.dumps(content(), 2))
    with (tmp_path / "x").open("rb") as file, pytest.raises(DataError, match=words):
        load_arrays(file, "x", (tmp_path / "x").stat().st_size)


def test_a_pickle_in_an_archive_has_the_same_budget(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("val_data", pickle.dumps([Call(LONG) for _ in range(300)], 2))
    with pytest.raises(DataError, match="far more"):
        list(read_batch(Place(tmp_path / "x.zip", "val_data"), 8))


def test_hdf5_whose_labels_are_of_any_length(tmp_path):
    with h5py.File(tmp_path / "imdb.mat", "w") as file:
        file["images/data"] = np.zeros((6, 3, 8, 8), np.uint8)
        file["images/labels"] = np.array([np.arange(3.0)] * 6 + [None], object)[:6].astype(h5py.vlen_dtype(float))
        file["images/set"] = np.ones((1, 6))
    with pytest.raises(DataError, match="images/labels should be numbers"):
        pack_imdb(tmp_path / "imdb.mat", tmp_path / "set")


def test_two_structs_are_not_the_first_of_them(tmp_path):
    one = {"data": np.zeros((8, 8, 3, 6), np.uint8), "labels": np.ones(6), "set": np.ones(6)}
    images = np.zeros((1, 2), [(name, object) for name in one])
    for i in range(2):
        images[0, i] = tuple(one.values())
    scipy.io.savemat(tmp_path / "imdb.mat", {"images": images})
    with pytest.raises(DataError, match="should be one struct"):
        pack_imdb(tmp_path / "imdb.mat", tmp_path / "set")


@pytest.mark.parametrize(
    "tensor", [torch.zeros(1, 1).expand(10**5, 10**5), torch.eye(3).to_sparse(), torch.zeros(2, dtype=torch.complex64)]
)
def test_tensors_that_are_not_plain(tmp_path, tensor):
    torch.save({"a": [tensor]}, tmp_path / "x.pth")
    with pytest.raises(GmsopError, match=r"sparse|fewer numbers"):
        load_plain(tmp_path / "x.pth")


def test_a_packed_file_of_pytorch(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "x.pth")
    with (
        zipfile.ZipFile(tmp_path / "x.pth") as old,
        zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(GmsopError, match="packed"):
        load_plain(tmp_path / "y.pth")
