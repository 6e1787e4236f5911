import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from gmsop.data import PackedDataset, PackedWriter, sample_path
from gmsop.data.writer import SetInUseError
from gmsop.errors import ConfigError, DataError
from gmsop.utils.files import WriteError, writing
from gmsop.utils.lock import Lock

NAMES = ["ant", "bee", "cat"]


def images(count: int, size: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def write(path, train=5, val=2, overwrite=False, seed=0):
    with PackedWriter(path, 4, {"train": train, "val": val}, NAMES, "a test", "box", overwrite) as writer:
        for i, image in enumerate(images(train + val, seed=seed)):
            writer.add(image, i % 3)
    return path


def edit_meta(path, **changes):
    meta = json.loads((path / "meta.json").read_text()) | changes
    (path / "meta.json").write_text(json.dumps(meta))


def test_round_trip(tmp_path):
    path = write(tmp_path / "set")
    train, val = PackedDataset(path, "train"), PackedDataset(path, "val")
    assert (len(train), len(val), train.image_size, train.class_names) == (5, 2, 4, NAMES)
    expected = images(7)
    for dataset, start in ((train, 0), (val, 5)):
        for i in range(len(dataset)):
            image, label = dataset[i]
            assert image.dtype == np.uint8
            assert np.array_equal(image, expected[start + i])
            assert label == (start + i) % 3
            assert isinstance(label, int)
    assert isinstance(train.images.base, np.memmap) or isinstance(train.images, np.memmap)


def test_statistics_are_those_of_the_training_images(tmp_path):
    meta = PackedDataset(write(tmp_path / "set"), "train").meta
    pixels = images(7)[:5].reshape(-1, 3).astype(float)
    assert meta["rgb_mean"] == pytest.approx(pixels.mean(0))
    assert meta["rgb_std"] == pytest.approx(pixels.std(0))


def test_the_arrays_are_plain_numpy_files_of_the_stated_shape(tmp_path):
    path = write(tmp_path / "set")
    assert sorted(p.name for p in path.iterdir()) == ["images.npy", "labels.npy", "meta.json"]
    assert np.load(path / "images.npy").shape == (7, 4, 4, 3)
    assert np.load(path / "labels.npy").dtype == np.int64
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("stop", [0, 3, 7])
def test_an_exception_leaves_nothing(tmp_path, stop):
    with pytest.raises(RuntimeError), PackedWriter(tmp_path / "set", 4, {"train": 7}, NAMES, "", "box") as writer:
        for image in images(stop):
            writer.add(image, 0)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_fewer_images_than_announced_leave_nothing(tmp_path):
    with (
        pytest.raises(DataError, match="2 images of train were added, 3 announced"),
        PackedWriter(tmp_path / "set", 4, {"train": 3}, NAMES, "", "box") as writer,
    ):
        for image in images(2):
            writer.add(image, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("image", "label", "words"),
    [
        (np.zeros((4, 5, 3), np.uint8), 0, r"expected uint8 \(4, 4, 3\), got uint8 \(4, 5, 3\)"),
        (np.zeros((4, 4, 3), np.float32), 0, "got float32"),
        (np.zeros((4, 4, 3), np.uint8), 3, "label 3 is not in 0..2"),
        (np.zeros((4, 4, 3), np.uint8), -1, "label -1"),
        (np.zeros((4, 4, 3), np.uint8), 0.5, r"1 images, but labels float64 \(1,\)"),
        (np.zeros((4, 4, 3), np.uint8), [0, 1], r"1 images, but labels int64 \(1, 2\)"),
    ],
)
def test_bad_images_and_labels(tmp_path, image, label, words):
    with (
        pytest.raises(DataError, match=words),
        PackedWriter(tmp_path / "s", 4, {"train": 1}, NAMES, "", "box") as writer,
    ):
        writer.add(image, label)


def test_an_existing_set_is_kept_unless_told(tmp_path):
    path = write(tmp_path / "set")
    before = (path / "images.npy").read_bytes()
    with pytest.raises(DataError, match="already exists"):
        write(path, seed=1)
    assert (path / "images.npy").read_bytes() == before
    write(path, seed=1, overwrite=True)
    assert np.array_equal(PackedDataset(path, "train").images, images(7, seed=1)[:5])
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_a_set_that_an_exchange_left_aside_is_there(tmp_path):
    """Killed between its two renames, `overwrite` leaves the old set under another name: it is put back, not lost."""
    write(tmp_path / "set")
    before = PackedDataset(tmp_path / "set", "train").images.copy()
    (tmp_path / "set").rename(tmp_path / ".set.old")
    with pytest.raises(DataError, match="already exists"):
        write(tmp_path / "set", seed=1)
    np.testing.assert_array_equal(PackedDataset(tmp_path / "set", "train").images, before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


def test_overwrite_does_not_touch_a_folder_of_something_else(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="will not be overwritten"):
        write(tmp_path / "photos", overwrite=True)


@pytest.mark.parametrize("name", ["notes.txt", "meta.json"])
def test_overwrite_does_not_touch_a_set_with_other_files_beside(tmp_path, name):
    path = tmp_path / "set"
    path.mkdir()
    (path / name).write_text("{}")
    (path / "thesis.doc").write_text("mine")
    with pytest.raises(DataError, match="will not be overwritten"):
        write(path, overwrite=True)
    assert (path / "thesis.doc").read_text() == "mine"


def test_overwrite_does_not_touch_a_file(tmp_path):
    (tmp_path / "set").write_text("mine")
    with pytest.raises(DataError, match="will not be overwritten"):
        write(tmp_path / "set", overwrite=True)


def test_overwrite_follows_a_link(tmp_path):
    write(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link", overwrite=True, seed=1)
    assert (tmp_path / "link").is_symlink()
    assert np.array_equal(PackedDataset(tmp_path / "real", "train").images, images(7, seed=1)[:5])


def test_overwriting_fails_whole(tmp_path):
    path = write(tmp_path / "set")
    before = (path / "images.npy").read_bytes()
    with pytest.raises(DataError), PackedWriter(path, 4, {"train": 3}, NAMES, "", "box", overwrite=True) as writer:
        writer.add(images(1)[0], 0)
    assert (path / "images.npy").read_bytes() == before


FULL = """
import resource, sys
import numpy as np
from gmsop.data import PackedWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
with PackedWriter(sys.argv[1], 64, {"train": 30}, ["a"], "", "box", overwrite=True) as writer:
    for _ in range(30):
        writer.add(np.zeros((64, 64, 3), np.uint8), 0)
"""


def test_a_full_disk_leaves_the_old_set(tmp_path):
    path = write(tmp_path / "set")
    before = sorted((p.name, p.read_bytes()) for p in path.iterdir())
    code = f"import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n{FULL}"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert "WriteError" in done.stderr
    assert "no space left on the disk" in done.stderr
    assert sorted((p.name, p.read_bytes()) for p in path.iterdir()) == before
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


KILLED = """
import os, signal, sys
import numpy as np
from gmsop.data import PackedWriter
with PackedWriter(sys.argv[1], 4, {"train": 9}, ["a"], "", "box") as writer:
    for _ in range(5):
        writer.add(np.zeros((4, 4, 3), np.uint8), 0)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_nothing_that_looks_complete(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "set")], check=False)
    assert not (tmp_path / "set").exists()
    for left in tmp_path.iterdir():
        assert left.name.startswith(".")
        with pytest.raises(DataError):
            PackedDataset(left, "train")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="Permission denied"):
        write(tmp_path / "set")


def test_a_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot write"):
        write(tmp_path / "file" / "set")


def test_splits_are_train_then_val(tmp_path):
    with pytest.raises(ConfigError, match="train and val, in this order"):
        PackedWriter(tmp_path / "set", 4, {"val": 1, "train": 1}, NAMES, "", "box")


class TestDamage:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(DataError, match="no such folder"):
            PackedDataset(tmp_path / "none", "train")
        with pytest.raises(DataError, match=r"no meta\.json"):
            PackedDataset(tmp_path, "train")

    def test_unknown_split(self, tmp_path):
        with pytest.raises(DataError, match="no split 'test'; it has train, val"):
            PackedDataset(write(tmp_path / "set"), "test")

    @pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
    def test_missing_or_damaged_array(self, tmp_path, name):
        path = write(tmp_path / "set")
        data = (path / name).read_bytes()
        for part in (data[:-5], data[:50], b"", data.replace(b"}", b" ")):
            (path / name).write_bytes(part)
            with pytest.raises(DataError, match=f"{name}: missing or damaged"):
                PackedDataset(path, "train")
        (path / name).unlink()
        with pytest.raises(DataError, match=name):
            PackedDataset(path, "train")

    @pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
    def test_one_changed_byte(self, tmp_path, name):
        path = write(tmp_path / "set")
        data = bytearray((path / name).read_bytes())
        data[-8] ^= 1
        (path / name).write_bytes(data)
        with pytest.raises(DataError, match=rf"{name}: damaged \(sha256"):
            PackedDataset(path, "train")
        PackedDataset(path, "train", verify=False)

    def test_wrong_shape_and_type(self, tmp_path):
        path = write(tmp_path / "set")
        np.save(path / "images.npy", images(7, size=5))
        with pytest.raises(DataError, match=r"expected uint8 \(7, 4, 4, 3\), got uint8 \(7, 5, 5, 3\)"):
            PackedDataset(path, "train")
        np.save(path / "images.npy", images(7).astype(np.float32))
        with pytest.raises(DataError, match="got float32"):
            PackedDataset(path, "train")

    def test_labels_out_of_range(self, tmp_path):
        path = write(tmp_path / "set")
        np.save(path / "labels.npy", np.array([0, 1, 2, 3, 0, 1, 2]))
        with pytest.raises(DataError, match="labels run from 0 to 3, there are 3 classes"):
            PackedDataset(path, "train")

    @pytest.mark.parametrize(
        "changes",
        [{"format": "other"}, {"version": 2}, {"splits": {}}, {"image_size": -1}, {"class_names": []}, {"sha256": {}},
         {"splits": {"train": "many"}}, {"rgb_mean": [1]}, {"splits": None}, {"sha256": ["images.npy", "labels.npy"]},
         {"rgb_std": [float("nan")] * 3}, {"rgb_mean": ["red", 1, 2]}, {"class_names": [1, 2, 3]},
         {"sha256": {"images.npy": "", "labels.npy": "", "../other": ""}}],
    )  # fmt: skip
    def test_damaged_description(self, tmp_path, changes):
        path = write(tmp_path / "set")
        edit_meta(path, **changes)
        with pytest.raises(DataError):
            PackedDataset(path, "train")

    def test_description_that_is_no_json(self, tmp_path):
        path = write(tmp_path / "set")
        (path / "meta.json").write_text('{"format": "gmsop-pa')
        with pytest.raises(DataError, match="damaged"):
            PackedDataset(path, "train")

    def test_a_pickle_in_place_of_an_array_is_not_run(self, tmp_path):
        path = write(tmp_path / "set")
        np.save(path / "labels.npy", np.array([print], object), allow_pickle=True)
        with pytest.raises(DataError):
            PackedDataset(path, "train")


def test_a_copy_elsewhere_works(tmp_path):
    shutil.copytree(write(tmp_path / "set"), tmp_path / "copy")
    assert len(PackedDataset(tmp_path / "copy", "train", verify=True)) == 5


def test_a_hidden_folder_of_somebody_else_is_left_alone(sample, tmp_path):
    """`.NAME.old` and `.NAME.part` are the writer's only if a set is in them."""
    for name in (".set.old", ".set.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("x")
    with pytest.raises(WriteError, match="File exists"):
        PackedWriter(tmp_path / "set", 64, {"train": 1}, ["a"], "", "box")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.txt")) == [
        ".set.old/thesis.txt",
        ".set.part/thesis.txt",
    ]


def test_another_process_opens_the_map_for_itself(sample):
    dataset = PackedDataset(sample, "val")
    sent = pickle.dumps(dataset)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent)[3][0], dataset[3][0])


def test_a_lock_whose_file_is_removed_in_between_is_taken_again(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    flock, calls = fcntl.flock, []

    def late(file, how):
        if not calls:
            (tmp_path / "lock").unlink()  # by who held it until now
        calls.append(how)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    lock = Lock(tmp_path / "lock", SetInUseError("in use"))
    assert len(calls) == 2
    with pytest.raises(SetInUseError):
        Lock(tmp_path / "lock", SetInUseError("in use"))
    lock.release()


@pytest.mark.slow
def test_the_sample_waits_for_who_packs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GMSOP_CACHE", str(tmp_path))
    code = "from gmsop.data import PackedDataset, sample_path; print(len(PackedDataset(sample_path(), 'val')))"
    others = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert len(PackedDataset(sample_path(), "train")) == 1500
    assert [other.communicate(timeout=100)[0] for other in others] == ["500\n"] * 2


def test_files_have_the_mode_that_the_user_wants(tmp_path):
    before = os.umask(0o077)
    try:
        with writing(tmp_path / "file") as temporary:
            temporary.write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
