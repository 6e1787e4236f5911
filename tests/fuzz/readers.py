"""Whatever gmsop reads that a stranger may have written: an honest example of it, how to damage it, how it is read."""

import contextlib
import io
import json
import pickle
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import scipy.io
import torch
from PIL import Image

import gmsop
from gmsop.convert import load_matconvnet
from gmsop.convert.mpncov.load import read_arrays
from gmsop.data import PackedDataset, PackedWriter
from gmsop.data.image_table import read_table
from gmsop.data.images import decode_rgb
from gmsop.data.labelled_images import find_images
from gmsop.data.packed import verify_checksums
from gmsop.data.prepare.imagenet import Place, read_batch
from gmsop.data.prepare.imdb import pack_imdb
from gmsop.data.prepare.options import WriteOptions
from gmsop.data.prepare.places365 import _categories, _lines
from gmsop.data.prepare.safe_pickle import load_arrays
from gmsop.ops.kernel_decisions import Decision, decisions_file, remember, remembered
from gmsop.probe.features import Features
from gmsop.report.page import write_report
from gmsop.runs.environment import read_starts
from gmsop.runs.metrics import read_metrics
from gmsop.training.model import fresh_model
from gmsop.training.recipe import Recipe, load_recipe
from gmsop.training.resume import open_checkpoint
from gmsop.weights.model_file import load_model, save_model

sys.path.append(str(Path(__file__).parents[1] / "probe"))
from mutations import STRANGE, Mutation, of_bytes, of_json, of_text, of_tree
from probe_sets import made_features

READERS: dict[str, "Reader"] = {}


class Reader(NamedTuple):
    """One thing that is read."""

    make: Callable[[Path], list[Path]]
    """Write an honest example into an empty folder; return the files that may be damaged."""
    read: Callable[[Path], object]
    """Read it, given that folder."""
    mutate: Mutation


def reader(name: str, make, read, mutate: Mutation = of_bytes) -> None:
    READERS[name] = Reader(make, read, mutate)


def images(count: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)


def write(path: Path, content: bytes) -> list[Path]:
    path.write_bytes(content)
    return [path]


# Pickles and .npz archives, as Downsampled ImageNet is given out.
BATCH = {
    "data": images().transpose(0, 3, 1, 2).reshape(8, -1),
    "labels": [1, 2, 3, 4, 5, 6, 7, 8],
    "mean": np.zeros(192, np.uint8),
}


def npz(folder: Path) -> list[Path]:
    np.savez(folder / "val_data.npz", **(BATCH | {"labels": np.arange(1, 9)}))
    return [folder / "val_data.npz"]


def batch(folder: Path) -> None:
    (file,) = folder.iterdir()
    for _ in read_batch(Place(file, None), 8):
        pass


reader("pickle", lambda f: write(f / "val_data", pickle.dumps(BATCH)), batch)
reader(
    "pickle, protocol 0",
    lambda f: write(f / "x", pickle.dumps(BATCH, 0)),
    lambda f: load_arrays((f / "x").open("rb"), "x", (f / "x").stat().st_size),
    of_text,
)
reader("npz", npz, batch)


# MATLAB files: version 7.3 is HDF5.
def hdf5(folder: Path) -> list[Path]:
    with h5py.File(folder / "imdb.mat", "w") as file:
        group = file.create_group("images")
        group["data"] = images(6).transpose(0, 3, 2, 1)
        group["labels"] = np.arange(1.0, 7)[:, None]
        group["set"] = np.array([1.0, 1, 1, 1, 3, 3])[:, None]
    return [folder / "imdb.mat"]


def matlab5(folder: Path, compressed: bool = False) -> list[Path]:
    content = {
        "data": images(6).transpose(1, 2, 3, 0),
        "labels": np.arange(1.0, 7),
        "set": np.array([1.0, 1, 1, 1, 3, 3]),
    }
    scipy.io.savemat(folder / "imdb.mat", {"images": content}, do_compression=compressed)
    return [folder / "imdb.mat"]


def imdb(folder: Path) -> None:
    pack_imdb(folder / "imdb.mat", folder / "set", options=WriteOptions(overwrite=True))


reader("imdb, HDF5", hdf5, imdb)
reader("imdb, MATLAB 5", matlab5, imdb)
reader("imdb, MATLAB 5 compressed", lambda f: matlab5(f, True), imdb)


GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints" / "ResNet18-GAP-net-epoch-1.mat"


def network(folder: Path) -> list[Path]:
    return [Path(shutil.copy(GOLDEN, folder / "net.mat"))]


reader("network, MATLAB", network, lambda f: load_matconvnet(f / "net.mat"))


# Text: recipes, tables, lists, rows of a run.
reader("recipe", lambda f: write(f / "recipe.yaml", RECIPE), lambda f: load_recipe(str(f / "recipe.yaml")), of_text)
RECIPE = (
    b"model: gm_sop_4_2_tiny\nepochs: [2, 3]\nlr: 1e-2\nbatch_size: 32\nmodel_args: {top_k: 2}\nflip: both\nseed: 7\n"
)


def table(folder: Path) -> list[Path]:
    for i in range(4):
        Image.fromarray(images()[i]).save(folder / f"{i}.png")
    rows = "".join(f"{i}.png,{'cat' if i % 2 else 'dog'},{'test' if i == 3 else 'train'}\n" for i in range(4))
    return write(folder / "table.csv", f"path,label,split\n{rows}".encode())


reader("table of images", table, lambda f: (read_table(f / "table.csv"), find_images(f / "table.csv")), of_text)
reader(
    "list of images",
    lambda f: write(f / "list", b"/a/b/1.jpg 3\n/a/c/2.jpg 4\n"),
    lambda f: list(_lines(f / "list")),
    of_text,
)
reader(
    "list of classes",
    lambda f: write(f / "list", b"/a/airfield 0\n/a/alley 1\n"),
    lambda f: _categories(f / "list"),
    of_text,
)


# Packed sets and features: a description beside arrays.
def packed(folder: Path) -> list[Path]:
    with PackedWriter(folder / "set", 8, {"train": 4, "val": 2}, ["a", "b"], "made", "box") as writer:
        for i in range(6):
            writer.add(images()[i], i % 2)
    return sorted((folder / "set").iterdir())


def open_packed(folder: Path) -> None:
    for split in ("train", "val"):
        dataset = PackedDataset(folder / "set", split)
        dataset.batch(np.arange(len(dataset)))
    verify_checksums(folder / "set", dataset.meta)


def by_suffix(content: bytes, draw: random.Random) -> bytes:
    if content[:1] in (b"{", b"["):
        return of_json(content, draw)
    return of_text(content, draw) if content.isascii() else of_bytes(content, draw)


def features(folder: Path) -> list[Path]:
    made_features(folder / "features", each=4, flip=True)
    return sorted((folder / "features").iterdir())


def open_features(folder: Path) -> None:
    found = Features.open(folder / "features")
    for layer in found.layers:
        for maps in found.batches(layer):
            maps.sum()


reader("packed set", packed, open_packed, by_suffix)
reader("features", features, open_features, by_suffix)


# Models and checkpoints.
def model(folder: Path) -> list[Path]:
    save_model(gmsop.create_model("gm_sop_4_2_tiny", 3), folder / "model.safetensors")
    return [folder / "model.safetensors"]


def described(content: bytes, draw: random.Random) -> bytes:
    """Change what the file says of its model, and nothing else."""
    with contextlib.suppress(ValueError, KeyError):
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        own = json.loads(header["__metadata__"]["gmsop"])
        of_tree(own, draw)
        header["__metadata__"]["gmsop"] = json.dumps(own)
        changed = json.dumps(header).encode()
        return len(changed).to_bytes(8, "little") + changed + content[8 + length :]
    return content


reader("model file", model, lambda f: load_model(f / "model.safetensors"))
reader("model's description", model, lambda f: load_model(f / "model.safetensors"), described)


class Run:
    """A run of one epoch, trained once for all readers."""

    folder: Path | None = None
    recipe = Recipe(model="gap_tiny", epochs=[1], batch_size=4, image_size=64, checkpoint_every=1)

    @classmethod
    def make(cls, folder: Path) -> list[Path]:
        if cls.folder is None:
            cls.folder = folder.parent / "run"
            with PackedWriter(cls.folder / "set", 64, {"train": 8, "val": 4}, ["a", "b"], "made", "box") as writer:
                for i in range(12):
                    writer.add(np.full((64, 64, 3), 20 * i, np.uint8), i % 2)
            gmsop.train(cls.recipe, cls.folder / "set", cls.folder / "run")
        shutil.copy(cls.folder / "run" / "previous.ckpt", folder / "last.ckpt")
        return [folder / "last.ckpt"]

    @classmethod
    def resume(cls, folder: Path) -> None:
        assert cls.folder is not None
        train_set = PackedDataset(cls.folder / "set", "train")
        load_model(folder / "last.ckpt")
        open_checkpoint(
            folder / "last.ckpt", fresh_model(cls.recipe, train_set), cls.recipe, train_set.fingerprint, False
        )


TENSORS = (torch.zeros(0), torch.full((3, 2), torch.nan), torch.ones(1, dtype=torch.int8))


def entries(content: bytes, draw: random.Random) -> bytes:
    """Change entries of a checkpoint, with its checksums right."""
    tree = torch.load(io.BytesIO(content), weights_only=True)
    of_tree(tree if draw.random() < 0.3 else tree["gmsop"], draw, (*STRANGE, *TENSORS))
    file = io.BytesIO()
    torch.save(tree, file)
    return file.getvalue()


reader("checkpoint", Run.make, Run.resume)
reader("checkpoint's entries", Run.make, Run.resume, entries)


def run_folder(folder: Path) -> list[Path]:
    Run.make(folder)
    assert Run.folder is not None
    shutil.copytree(Run.folder / "run", folder / "run")
    names = ("recipe.yaml", "metrics.csv", "timing.csv", "environment.json", "validation.npz")
    return [folder / "run" / name for name in names]


def read_folder(folder: Path) -> None:
    read_starts(folder / "run" / "environment.json")
    read_metrics(folder / "run" / "timing.csv")
    write_report([folder / "run"], folder / "page.html")


reader("folder of a run", run_folder, read_folder, by_suffix)


def mpncov(folder: Path) -> list[Path]:
    torch.save(
        {"state_dict": {"features.0.weight": torch.ones(2, 3, 3, 3)}, "arch": "mpncovresnet50"}, folder / "x.pth"
    )
    return [folder / "x.pth"]


reader("weights of fast MPN-COV", mpncov, lambda f: read_arrays(f / "x.pth"))


# Images.
def pictures(folder: Path) -> list[Path]:
    picture = Image.fromarray(np.tile(images()[0], (3, 3, 1)))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "a.jpg", exif=exif)
    for name in ("b.png", "c.gif", "d.bmp", "e.tif", "f.webp"):
        picture.save(folder / name)
    picture.convert("P").save(folder / "g.png", transparency=0)
    picture.convert("CMYK").save(folder / "h.jpg")
    return sorted(folder.iterdir())


def decode(folder: Path) -> None:
    refused = None
    for file in sorted(folder.iterdir()):
        try:
            assert decode_rgb(file, 16, "box").shape == (16, 16, 3)
        except gmsop.errors.DataError as error:
            refused = error
    if refused is not None:
        raise refused


reader("images", pictures, decode)


# What gmsop itself keeps.
def decisions(folder: Path) -> list[Path]:
    remember("fuzzed", "a call", Decision(True, "", 1.0, 2.0))
    return [Path(shutil.copy(decisions_file("fuzzed"), folder / "x.json"))]


def reread(folder: Path) -> None:
    shutil.copy(folder / "x.json", decisions_file("fuzzed"))
    assert all(isinstance(d, Decision) for d in remembered("fuzzed").values())


reader("decisions about kernels", decisions, reread, of_json)
