"""Files made to harm who reads them: each is refused in one line, at once, with nothing run and little memory."""

import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import OrderedDict

import h5py
import numpy as np
import pytest
import scipy.io
from release import release

from gmsop.cli import main
from gmsop.convert import load_matconvnet
from gmsop.data import PackedDataset
from gmsop.data.prepare.imagenet import pack_imagenet
from gmsop.data.prepare.imdb import pack_imdb
from gmsop.data.prepare.safe_pickle import load_arrays
from gmsop.errors import CheckpointError, DataError, DataWarning, GmsopError
from gmsop.utils.matlab_files import require_sound_matlab5
from matconvnet_files import LAYERS, official_shapes, random_params, write_v5, write_v73


@pytest.fixture(autouse=True)
def little_memory():
    """Whatever takes 6 GiB more than now fails."""
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: PTH123, SIM115
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 6 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


class Reduced:
    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


REBUILD = np.zeros(1).__reduce__()[0]
START = (np.ndarray, (0,), b"b")


def dtype_with(state, code="V8"):
    return Reduced(np.dtype, (code, False, True), state)


POINTER = dtype_with((3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0))
"""It says that it holds no objects, and has a field of them: eight bytes of the file would be an address."""


def nested(depth):
    out: list = [1] * 10
    for _ in range(depth):
        out = [out] * 10
    return out


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Reduced(REBUILD, START, (1, (1,), POINTER, False, b"\x41" * 8)), "of its own"),
        (
            Reduced(REBUILD, START, (1, (1,), dtype_with((3, "|", None, None, None, -1, -1, 63), "u1"), False, b"a")),
            "flags",
        ),
        (Reduced(REBUILD, START, (1, (1,), dtype_with(None, "O8"), False, [print])), "print"),
        (Reduced(REBUILD, START, (1, (1,), np.dtype("S8"), False, b"a" * 8)), "only plain numbers"),
        (Reduced(REBUILD, START, (1, (10**30,), np.dtype("u1"), False, b"a")), "shape"),
        (Reduced(REBUILD, START, (1, (2**31, 2**31), np.dtype("u1"), False, b"a")), "shape"),
        (Reduced(REBUILD, (OrderedDict, (0,), b"b"), (1, (1,), np.dtype("u1"), False, b"a")), "a type of its own"),
        (Reduced(np.ndarray, ((10**9,),)), "not callable"),
        (Reduced(eval, ("1",)), "not run"),
        (Reduced(REBUILD, START, 5), "pickle"),
    ],
)
def test_pickles_that_reach_for_memory(value, words):
    with pytest.raises(DataError, match=words):
        load_arrays(io.BytesIO(pickle.dumps(value, protocol=2)), "x", 100)


def test_a_pickle_cannot_change_what_reads_it():
    name = b"cnumpy.core.multiarray\n_reconstruct\n"
    with pytest.raises(DataError, match="change a function"):
        load_arrays(io.BytesIO(b"\x80\x02" + name + b"N}U\x0c__defaults__)s\x86b."), "x", 100)


def test_a_pickle_with_a_large_memo_takes_no_memory():
    assert load_arrays(io.BytesIO(b"\x80\x02K\x01r\xff\xff\xff\xff."), "x", 100) == 1


@pytest.mark.parametrize("labels", [nested(8), [[1, 2]], "abc", ["a"], {"a": 1}, None, [2**70] * 3])
def test_labels_that_are_no_numbers(tmp_path, sample, labels):
    release(tmp_path / "down", sample)
    file = tmp_path / "down" / "train_data_batch_3"
    batch = pickle.loads(file.read_bytes())
    file.write_bytes(pickle.dumps(batch | {"labels": labels}))
    with pytest.raises(DataError, match="labels should be"):
        pack_imagenet(tmp_path / "down", tmp_path / "set")


def test_an_npz_that_promises_more_than_it_holds(tmp_path, sample):
    release(tmp_path / "down", sample, "npz")
    file = tmp_path / "down" / "train_data_batch_3.npz"
    with zipfile.ZipFile(file) as archive:
        data = archive.read("data.npy")
    for shape in (10**30, 10**7, -1):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (shape,)})
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("data.npy", data)
            archive.writestr("labels.npy", header.getvalue() + bytes(24))
        with pytest.raises(DataError, match=r"labels should be a list|truncated"):
            pack_imagenet(tmp_path / "down", tmp_path / "set")


@pytest.mark.parametrize("member", ["train_data_batch_3", "train_data_batch_3.npz"])
def test_a_deflated_bomb(tmp_path, sample, member):
    release(tmp_path / "down", sample, "npz" if member.endswith("npz") else "pickle")
    (tmp_path / "down" / member).unlink()
    file = tmp_path / "down" / (member if member.endswith("npz") else "batches.zip")
    inner = "data.npy" if member.endswith("npz") else member
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(inner, "w") as stream:
            for _ in range(64):
                stream.write(bytes(2**20))
        archive.writestr("labels.npy", b"")
    with pytest.raises(DataError, match="would unpack to"):
        pack_imagenet(tmp_path / "down", tmp_path / "set")


def imdb(path, data=None, **more):
    """Write a MATLAB v7.3 imdb of six images; `data` and `more` write the parts given otherwise."""
    pixels = np.random.default_rng(0).integers(0, 255, (6, 3, 8, 8), np.uint8)
    with h5py.File(path, "w") as file:
        images = file.create_group("images")
        (data or (lambda group: group.create_dataset("data", data=pixels)))(images)
        images["labels"] = np.arange(6.0)[None] % 2 + 1
        images["set"] = np.array([[1.0, 1, 1, 1, 2, 2]])
        for write in more.values():
            write(file)
    return path


def external(group):
    group.create_dataset("data", (6, 3, 8, 8), "u1", external=[("/etc/passwd", 0, 1152)])


def missing(group):
    group.create_dataset("data", (6, 3, 8, 8), "u1", external=[("/nowhere", 0, 1152)])


def virtual(group):
    layout = h5py.VirtualLayout((6, 3, 8, 8), "u1")
    layout[:] = h5py.VirtualSource("gone.h5", "data", (6, 3, 8, 8))
    group.create_virtual_dataset("data", layout)


def unwritten(group):
    group.create_dataset("data", (6, 3, 8, 8), "u1")


def half_written(group):
    group.create_dataset("data", (6, 3, 8, 8), "u1", chunks=(1, 3, 8, 8))[:3] = 7


def huge(group):
    group.create_dataset("data", (10**9, 3, 64, 64), "u1", chunks=(1, 3, 64, 64))


def strange_filter(group):
    data = group.create_dataset("data", (6, 3, 8, 8), "u1", chunks=(1, 3, 8, 8), compression="lzf")
    data[:] = 7


def twice(group):
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((1, 3, 8, 8))
    plan.set_deflate(9)
    plan.set_deflate(9)
    space = h5py.h5s.create_simple((6, 3, 8, 8))
    found = h5py.h5d.create(group.id, b"data", h5py.h5t.STD_U8LE, space, plan)
    found.write(h5py.h5s.ALL, h5py.h5s.ALL, np.full((6, 3, 8, 8), 7, np.uint8))


def linked(group):
    group["data"] = h5py.ExternalLink("/etc/passwd", "/data")


HDF5 = [
    (external, "in another file"), (missing, "in another file"), (virtual, "put together from other files"),
    (unwritten, "never written"), (half_written, "never written"), (huge, "cannot"), (strange_filter, "filters"),
    (twice, "filters"), (linked, "in another file"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "words"), HDF5)
def test_hdf5_that_takes_its_pixels_from_elsewhere_or_from_nothing(tmp_path, data, words):
    with pytest.raises(DataError, match=words):
        pack_imdb(imdb(tmp_path / "imdb.mat", data), tmp_path / "set")
    assert not (tmp_path / "set").exists()
    with h5py.File(tmp_path / "net.mat", "w") as file:
        data(file.create_group("net"))
    with pytest.raises(CheckpointError, match=words):
        load_matconvnet(tmp_path / "net.mat")


def test_an_honest_imdb_is_read_in_pieces_of_any_size(tmp_path, monkeypatch):
    pack_imdb(imdb(tmp_path / "imdb.mat"), tmp_path / "a")
    monkeypatch.setattr("gmsop.data.prepare.imdb.PIECE", 200)
    pack_imdb(tmp_path / "imdb.mat", tmp_path / "b")
    assert np.array_equal(PackedDataset(tmp_path / "a", "train").images, PackedDataset(tmp_path / "b", "train").images)


def test_a_matlab_file_that_refers_to_itself_or_is_deep(tmp_path):
    with h5py.File(tmp_path / "loop.mat", "w") as file:
        cell = file.create_dataset("net", (1, 1), h5py.ref_dtype)
        cell[0, 0] = cell.ref
    with pytest.raises(CheckpointError, match="refers to itself"):
        load_matconvnet(tmp_path / "loop.mat")
    with h5py.File(tmp_path / "deep.mat", "w") as file:
        group = file.create_group("net")
        for _ in range(200):
            group = group.create_group("a")
    with pytest.raises(CheckpointError, match="deep"):
        load_matconvnet(tmp_path / "deep.mat")
    with h5py.File(tmp_path / "wide.mat", "w") as file:  # 2^60 paths to one number
        refs = file.create_group("#refs#")
        inner = refs.create_dataset("0", data=1.0)
        for i in range(1, 60):
            outer = refs.create_dataset(str(i), (2, 1), h5py.ref_dtype)
            outer[:, 0] = [inner.ref, inner.ref]
            inner = outer
        file["net"] = inner
    with pytest.raises(CheckpointError, match="no list of named parameters"):
        load_matconvnet(tmp_path / "wide.mat")


def element(kind, payload):
    return struct.pack("<II", kind, len(payload)) + payload + bytes(-len(payload) % 8)


def matrix(kind, dims, name, payload):
    head = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(dims)}i", *dims))
    return element(14, head + element(1, name) + payload)


def mat5(path, content):
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + content)
    return path


def test_a_matlab_5_file_that_would_overflow_the_stack(tmp_path):
    inner = matrix(6, (1, 1), b"", element(9, bytes(8)))
    for depth in range(3000):
        inner = matrix(1, (1, 1), b"net" if depth == 2999 else b"", inner)
    for content in (inner, element(15, zlib.compress(inner))):
        with pytest.raises(CheckpointError, match="deep in one another"):
            load_matconvnet(mat5(tmp_path / "deep.mat", content))


def test_a_matlab_5_file_that_says_it_is_large(tmp_path):
    cells = matrix(1, (10**9, 1), b"net", b"")
    with pytest.raises(CheckpointError, match="more than"):
        load_matconvnet(mat5(tmp_path / "cells.mat", cells))
    packer = zlib.compressobj()
    bomb = packer.compress(struct.pack("<II", 14, 10**8)) + b"".join(packer.compress(bytes(2**20)) for _ in range(128))
    with pytest.raises(CheckpointError, match="unpacks to more"):
        load_matconvnet(mat5(tmp_path / "bomb.mat", element(15, bomb + packer.flush())))


@pytest.mark.parametrize("compressed", [False, True])
def test_honest_matlab_5_files_are_sound(tmp_path, compressed):
    value = {"a": np.arange(12.0).reshape(3, 4), "b": [[1, "text", np.zeros((0, 3))]], "s": np.zeros(200000)}
    scipy.io.savemat(tmp_path / "a.mat", {"net": value, "x": 5}, do_compression=compressed)
    require_sound_matlab5(tmp_path / "a.mat")


@pytest.fixture(scope="module")
def params():
    return random_params(official_shapes("ResNet18-GAP"))


def rewritten(path, change):
    content = scipy.io.loadmat(path)
    net = change(content["net"])
    scipy.io.savemat(path, net if isinstance(net, dict) else {"net": net})
    return path


@pytest.mark.parametrize("write", [write_v5, write_v73])
def test_what_a_matlab_file_says_of_the_mean(tmp_path, write, params):
    with_mean = load_matconvnet(write(tmp_path / "a.mat", params, mean=(120.0, 110.0, 100.0)))
    assert with_mean.pretrained_cfg["mean"] == pytest.approx((120 / 255, 110 / 255, 100 / 255))
    given = load_matconvnet(tmp_path / "a.mat", mean=(1.0, 2.0, 3.0))
    assert given.pretrained_cfg["mean"] == pytest.approx((1 / 255, 2 / 255, 3 / 255))
    with pytest.raises(CheckpointError, match="mean should be 3 numbers, found 2"):
        load_matconvnet(write(tmp_path / "two.mat", params, mean=(120.0, 110.0)))


def test_an_empty_mean_subtracts_nothing_and_none_is_warned_of(tmp_path, params, capfd):
    def without_mean(net):
        net["meta"][0, 0]["normalization"][0, 0]["averageImage"][0, 0] = np.zeros((0, 0))
        return net

    empty = load_matconvnet(rewritten(write_v5(tmp_path / "a.mat", params), without_mean))
    assert (empty.pretrained_cfg["mean"], empty.pretrained_cfg["std"]) == ((0.0,) * 3, (1 / 255,) * 3)

    def as_struct(net):
        return {name: net[0, 0][name] for name in net.dtype.names if name != "meta"}

    silent = rewritten(write_v5(tmp_path / "b.mat", params), as_struct)
    with pytest.warns(DataWarning, match="does not say which mean"):
        load_matconvnet(silent)
    argv = ["convert", str(silent), str(tmp_path / "b.safetensors")]
    assert main(argv) == 0
    assert "that of ImageNet is taken" in capfd.readouterr().err
    assert main([*argv, "--mean", "1", "2", "3"]) == 0
    printed = capfd.readouterr()
    assert "warning" not in printed.err
    assert "RGB mean 1.00 2.00 3.00" in printed.out


def test_settings_that_a_matlab_file_does_not_say_are_warned_of(tmp_path):
    params = random_params(official_shapes("ResNet18-GM-SOP"))
    with pytest.warns(DataWarning, match="does not say top_k; taken as published: top_k 8"):
        load_matconvnet(write_v5(tmp_path / "a.mat", params, layers=LAYERS[1:]))


def test_a_struct_saved_by_its_fields(tmp_path, params):
    whole = load_matconvnet(write_v5(tmp_path / "a.mat", params))
    rewritten(tmp_path / "a.mat", lambda net: {name: net[0, 0][name] for name in net.dtype.names})
    for path in (tmp_path / "a.mat", _fields_of(write_v73(tmp_path / "b.mat", params))):
        found = load_matconvnet(path)
        assert found.pretrained_cfg["mean"] == whole.pretrained_cfg["mean"]
        assert all(value.equal(found.state_dict()[key]) for key, value in whole.state_dict().items())


def _fields_of(path):
    with h5py.File(path, "r+") as file:
        for key in list(file["net"]):
            file.move(f"net/{key}", key)
        del file["net"]
    return path


@pytest.mark.parametrize(
    "name", ["meta.json", *(pytest.param(name, marks=pytest.mark.slow) for name in ("images.npy", "labels.npy"))]
)
def test_a_pipe_in_a_packed_set_is_refused_at_once(tmp_path, small_set, name):
    folder = tmp_path / "set"
    folder.mkdir()
    for file in small_set.iterdir():
        if file.name != name:
            (folder / file.name).write_bytes(file.read_bytes())
    os.mkfifo(folder / name)
    code = "import sys; from gmsop.cli import main; sys.exit(main(['data', 'verify', sys.argv[1]]))"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert name in done.stderr


def test_a_description_of_ten_million_classes_is_refused(tmp_path, small_set):
    meta = json.loads((small_set / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps(meta | {"class_names": [f"class {i}" for i in range(5_000_000)]}))
    with pytest.raises(DataError, match="which no description is"):
        PackedDataset(tmp_path, "train")


@pytest.mark.parametrize("name", ["model.safetensors", "last.ckpt", "net.mat", "recipe.yaml", "list.csv"])
def test_pipes_are_no_files(tmp_path, name):
    from gmsop import load_model
    from gmsop.data.labelled_images import find_images
    from gmsop.training.recipe import load_recipe

    os.mkfifo(tmp_path / name)
    readers = {".mat": load_matconvnet, ".yaml": load_recipe, ".csv": find_images}
    with pytest.raises(GmsopError):
        readers.get((tmp_path / name).suffix, load_model)(str(tmp_path / name))
