import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from release import sample_images

from gmsop.data import PackedDataset
from gmsop.data.packed import read_meta
from gmsop.data.prepare import chunks as parts
from gmsop.data.prepare.chunks import PackOptions
from gmsop.data.prepare.class_folders import pack_folder
from gmsop.data.prepare.places365 import pack_places365
from gmsop.data.prepare.tiny_imagenet import pack_tiny_imagenet
from gmsop.errors import ConfigError, DataError


def save(image: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file, quality=95)


def places(root: Path, sample: Path, train: str = "data_256", val: str = "val_256", lists: str = ".") -> np.ndarray:
    """Twelve training and four validation images of three categories, as the official archives unpack."""
    images = sample_images(sample, 16)
    categories = ["/a/airfield", "/a/apartment_building/outdoor", "/z/zen_garden"]
    lines: dict[str, list[str]] = {"train_standard": [], "val": []}
    for i in range(12):
        name = f"{categories[i % 3]}/{i:08d}.png"
        save(images[i], root / train / name[1:])
        lines["train_standard"].append(f"{name} {i % 3}")
    for i in range(12, 16):
        save(images[i], root / val / f"Places365_val_{i:08d}.png")
        lines["val"].append(f"Places365_val_{i:08d}.png {i % 3}")
    (root / lists).mkdir(exist_ok=True)
    for name, content in lines.items():
        (root / lists / f"places365_{name}.txt").write_text("\n".join(content) + "\n")
    (root / lists / "categories_places365.txt").write_text("".join(f"{c} {i}\n" for i, c in enumerate(categories)))
    return images


class TestPlaces365:
    @pytest.mark.parametrize(
        ("train", "val", "lists"),
        [
            ("data_256", "val_256", "."),
            ("data_large", "val_large", "filelist_places365-standard"),
            ("data_256_standard", "val_256", "."),  # torchvision's
        ],
    )
    def test_layouts(self, tmp_path, sample, train, val, lists):
        images = places(tmp_path / "p", sample, train, val, lists)
        assert pack_places365(tmp_path / "p", tmp_path / "set", 64) == []
        found = PackedDataset(tmp_path / "set", "train")
        np.testing.assert_array_equal(found.images, images[:12])
        assert found.labels.tolist() == [0, 1, 2] * 4
        assert found.class_names == ["airfield", "apartment_building/outdoor", "zen_garden"]
        assert PackedDataset(tmp_path / "set", "val").labels.tolist() == [0, 1, 2, 0]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["p", "set"]

    def test_default_is_100_pixels_bicubic(self, tmp_path, sample):
        images = places(tmp_path / "p", sample)
        pack_places365(tmp_path / "p", tmp_path / "set")
        found = PackedDataset(tmp_path / "set", "val").images[0]
        expected = Image.fromarray(images[12]).resize((100, 100), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(found, np.asarray(expected))

    def test_both_versions(self, tmp_path, sample):
        places(tmp_path / "p", sample)
        places(tmp_path / "p", sample, "data_large", "val_large")
        with pytest.raises(DataError, match="--version"):
            pack_places365(tmp_path / "p", tmp_path / "set")
        pack_places365(tmp_path / "p", tmp_path / "set", 64, version="large")
        with pytest.raises(ConfigError, match="version"):
            pack_places365(tmp_path / "p", tmp_path / "set", version="512")

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("places365_val.txt", None, "places365_val.txt is missing"),
            ("places365_val.txt", "", "empty"),
            ("places365_val.txt", "a.png 1\nb.png\n", "line 2: expected a name and a number"),
            ("places365_val.txt", "a.png 3\n", "line 1: category 3, there are 3"),
            ("categories_places365.txt", "/a/a 0\n/b/b 2\n", "not numbered"),
            ("categories_places365.txt", b"/a/caf\xe9 0\n", "categories_places365.txt: cannot be read"),
        ],
    )
    def test_bad_lists(self, tmp_path, sample, file, content, message):
        places(tmp_path / "p", sample)
        (tmp_path / "p" / file).unlink()
        if content is not None:
            (tmp_path / "p" / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(DataError, match=message):
            pack_places365(tmp_path / "p", tmp_path / "set")

    def test_nothing_there(self, tmp_path, sample):
        with pytest.raises(DataError, match="no such folder"):
            pack_places365(tmp_path / "p", tmp_path / "set")
        places(tmp_path / "p", sample, train="elsewhere")
        with pytest.raises(DataError, match="expected data_256"):
            pack_places365(tmp_path / "p", tmp_path / "set")


def test_tiny_imagenet(tmp_path, sample):
    images = sample_images(sample, 6)
    root = tmp_path / "tiny-imagenet-200"
    for i, wnid in enumerate(["n02", "n01", "n02", "n01"]):
        save(images[i], root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG")
    lines = []
    for i, wnid in ((4, "n01"), (5, "n02")):
        save(images[i], root / "val" / "images" / f"val_{i}.JPEG")
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t62\t62")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines))
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn03\tother\n")
    pack_tiny_imagenet(tmp_path, tmp_path / "set")
    train = PackedDataset(tmp_path / "set", "train")
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert train.class_names == ["goldfish", "n02"]
    assert PackedDataset(tmp_path / "set", "val").labels.tolist() == [0, 1]
    (root / "val" / "val_annotations.txt").write_text("")
    with pytest.raises(DataError, match=r"val_annotations.txt: empty"):
        pack_tiny_imagenet(tmp_path, tmp_path / "other")
    (root / "train" / "n05" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match="train: no images in n05"):
        pack_tiny_imagenet(tmp_path, tmp_path / "other")
    (root / "train" / "n05" / "images").rmdir()
    with pytest.raises(DataError, match="train: no images in n05"):
        pack_tiny_imagenet(tmp_path, tmp_path / "other")
    (root / "train" / "n05").rmdir()
    (root / "val" / "val_annotations.txt").write_text("val_4.JPEG\tn09\t0\t0\t1\t1\n")
    with pytest.raises(DataError, match=r"line 1: class 'n09' is not in train"):
        pack_tiny_imagenet(tmp_path, tmp_path / "other")
    with pytest.raises(DataError, match="val_annotations"):
        pack_tiny_imagenet(tmp_path / "set", tmp_path / "other")


def test_a_list_of_files(tmp_path, sample):
    images = sample_images(sample, 4)
    for i, image in enumerate(images):
        save(image, tmp_path / "photos" / f"{i}.png")
    listing = tmp_path / "list.csv"
    listing.write_text("path,label,split\nphotos/0.png,b,train\nphotos/1.png,a,train\nphotos/2.png,b,val\n")
    pack_folder(listing, tmp_path / "set")
    train = PackedDataset(tmp_path / "set", "train")
    np.testing.assert_array_equal(train.images, images[[1, 0]])
    assert (train.class_names, train.labels.tolist()) == (["a", "b"], [0, 1])
    listing.write_text("path,label\nphotos/0.png,b\nphotos/1.png,a\nphotos/2.png,b\nphotos/3.png,a\n")
    pack_folder(listing, tmp_path / "half", val_fraction=0.5)
    assert len(PackedDataset(tmp_path / "half", "val")) == 2
    for content, message in (
        ("what,label\n", "must name a column"),
        ("path,label,split\na,b,later\n", "line 2"),
        ("", "nothing"),
    ):
        listing.write_text(content)
        with pytest.raises(DataError, match=message):
            pack_folder(listing, tmp_path / "other")


def many(folder: Path, sample: Path, count: int) -> np.ndarray:
    images = sample_images(sample, 40)
    for i in range(count):
        save(images[i % 40], folder / "train" / "ab"[i % 2] / f"{i:05d}.png")
    return images


def test_bad_images_stop_or_are_skipped_by_name(tmp_path, sample, monkeypatch):
    monkeypatch.setattr(parts, "CHUNK", 4)
    many(tmp_path / "src", sample, 20)
    bad = sorted((tmp_path / "src").rglob("*.png"))[3:13:3]
    for file in bad:
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="4 of 20 images cannot be read") as caught:
        pack_folder(tmp_path / "src", tmp_path / "set", val_fraction=0)
    assert all(str(file) in str(caught.value) for file in bad)
    skipped = pack_folder(tmp_path / "src", tmp_path / "set", val_fraction=0, options=PackOptions(on_error="skip"))
    assert [b.path for b in skipped] == bad
    found = PackedDataset(tmp_path / "set", "train")
    assert len(found) == 16
    assert found.meta["skipped"] == sorted(map(str, bad))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set", "src"]


def test_shares_are_joined_into_the_same_set(tmp_path, sample, monkeypatch):
    monkeypatch.setattr(parts, "CHUNK", 4)
    many(tmp_path / "src", sample, 22)
    pack_folder(tmp_path / "src", tmp_path / "whole", val_fraction=0)
    decoded = []
    original = parts.decode_rgb
    monkeypatch.setattr(parts, "decode_rgb", lambda *a: decoded.append(1) or original(*a))
    for i in (3, 1, 2):
        pack_folder(tmp_path / "src", tmp_path / "set", val_fraction=0, options=PackOptions(shard=(i, 3)))
        assert not (tmp_path / "set").exists()
    assert len(decoded) == 22
    pack_folder(tmp_path / "src", tmp_path / "set", val_fraction=0)
    assert len(decoded) == 22
    for name in ("images.npy", "labels.npy"):
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    pack_folder(tmp_path / "src", tmp_path / "third", val_fraction=0, options=PackOptions(shard=(1, 2)))
    with pytest.raises(DataError, match="another list"):
        pack_folder(tmp_path / "src", tmp_path / "third", 32, val_fraction=0, options=PackOptions(shard=(2, 2)))


KILLED = """
import sys
from gmsop.data.prepare import chunks as parts
from gmsop.data.prepare.class_folders import pack_folder
from gmsop.data.prepare.options import PackOptions
parts.CHUNK, parts.FEW = 8, 8
if __name__ == "__main__":
    pack_folder(sys.argv[1], sys.argv[2], val_fraction=0, options=PackOptions(workers=2))
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_no_image(tmp_path, sample):
    """Reading it would wait for ever."""
    many(tmp_path / "src", sample, 4)
    os.mkfifo(tmp_path / "src" / "train" / "a" / "x.png")
    with pytest.raises(DataError, match=r"x\.png: not a file but a pipe"):
        pack_folder(tmp_path / "src", tmp_path / "set", val_fraction=0)


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, sample, monkeypatch):
    """Its processes too are killed: a job array's time ran out."""
    many(tmp_path / "src", sample, 900)
    (tmp_path / "job.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "job.py"), str(tmp_path / "src"), str(tmp_path / "set")]
    process = subprocess.Popen(command, start_new_session=True)
    folder = tmp_path / ".set.parts"
    while len(list(folder.glob("0*.npz")) if folder.exists() else []) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "set").exists()
    kept = len(list(folder.glob("0*.npz")))
    assert 3 <= kept < 113
    monkeypatch.setattr(parts, "CHUNK", 8)
    decoded = []
    original = parts.decode_rgb
    monkeypatch.setattr(parts, "decode_rgb", lambda *a: decoded.append(1) or original(*a))
    pack_folder(tmp_path / "src", tmp_path / "set", val_fraction=0, options=PackOptions(workers=1))
    assert len(decoded) <= 900 - 8 * kept + 4
    pack_folder(tmp_path / "src", tmp_path / "again", val_fraction=0, options=PackOptions(workers=1))
    for name in ("images.npy", "labels.npy"):
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize("options", [{"on_error": "ask"}, {"workers": 0}, {"shard": (3, 2)}, {"shard": (0, 2)}])
def test_bad_options(options):
    with pytest.raises(ConfigError):
        PackOptions(**options)


def bicubic(image: np.ndarray, size: int) -> np.ndarray:
    """MATLAB's imresize, one axis after the other: a = -0.5, wider when shrinking, borders mirrored."""
    for axis in (0, 1):
        scale = size / image.shape[axis]
        width = max(1, 1 / scale)
        centre = (np.arange(size) + 0.5) / scale - 0.5
        taps = np.floor(centre - 2 * width)[:, None] + np.arange(int(np.ceil(4 * width)) + 2)
        t = np.abs((centre[:, None] - taps) / width)
        inner, outer = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        weight = np.where(t <= 1, inner, np.where(t <= 2, outer, 0))
        weight /= weight.sum(1, keepdims=True)
        n = image.shape[axis]
        mirrored = np.r_[np.arange(n), np.arange(n)[::-1]][taps.astype(int) % (2 * n)]
        image = np.moveaxis((np.moveaxis(image, axis, 0)[mirrored] * weight[..., None, None]).sum(1), 0, axis)
    return image


def test_pillow_against_matlab(sample):
    """Inside the two filters are one, at the borders not: what the docstring of `pack_places365` measures."""
    tiles = sample_images(sample, 32)
    inside, border = [], []
    for first in (0, 16):
        photo = np.concatenate([np.concatenate(tiles[first + i : first + i + 4], 1) for i in range(0, 16, 4)])
        found = np.asarray(Image.fromarray(photo).resize((100, 100), Image.Resampling.BICUBIC)).astype(float)
        difference = np.abs(found - np.floor(bicubic(photo.astype(float), 100).clip(0, 255) + 0.5))
        inside.append(difference[2:-2, 2:-2].mean())
        difference[2:-2, 2:-2] = np.nan
        border.append(np.nanmax(difference))
    assert max(inside) < 0.15
    assert 2 < max(border) <= 13


def photos(root: Path) -> Path:
    """Six images of two classes."""
    for i in range(6):
        save(np.full((9, 9, 3), 40 * i, np.uint8), root / "ab"[i % 2] / f"{i}.png")
    return root


def test_the_parts_of_another_list_are_not_thrown_away(tmp_path):
    source = photos(tmp_path / "photos")
    pack_folder(source, tmp_path / "set", 8, val_fraction=0, options=PackOptions(shard=(1, 1)))
    parts = {p: p.read_bytes() for p in (tmp_path / ".set.parts").glob("*.npz")}
    assert parts
    with pytest.raises(DataError, match="chunks of another list of images, size or filter"):
        pack_folder(source, tmp_path / "set", 16, val_fraction=0)
    assert all(p.read_bytes() == content for p, content in parts.items())
    pack_folder(source, tmp_path / "set", 16, val_fraction=0, options=PackOptions(overwrite=True))
    assert PackedDataset(tmp_path / "set", "train").image_size == 16


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path):
    """Killed, it cannot stop them."""
    code = (
        "import os, signal, sys, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "import multiprocessing\n"
        "from gmsop.data.reading_processes import START, follow_parent\n"
        "if __name__ == '__main__':\n"
        "    start = multiprocessing.get_context(START)\n"
        "    pool = ProcessPoolExecutor(1, start, initializer=follow_parent)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(time.sleep, 300)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "start.py").write_text(code)
    done = subprocess.run([sys.executable, tmp_path / "start.py"], capture_output=True, text=True, timeout=120)
    child, deadline = int(done.stdout), time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()


def test_the_same_list_by_another_path_is_the_same_list(tmp_path, monkeypatch):
    source = photos(tmp_path / "photos")
    pack_folder(source, tmp_path / "set", 8, val_fraction=0, options=PackOptions(shard=(1, 1)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gmsop.data.prepare.chunks._decode_chunk", None)  # nothing is to be decoded again
    pack_folder(Path("photos"), tmp_path / "set", 8, val_fraction=0)
    assert len(PackedDataset(tmp_path / "set", "train")) == 6


def test_a_mended_image_and_a_damaged_part_are_done_again(tmp_path):
    source = photos(tmp_path / "photos")
    bad = source / "a" / "0.png"
    whole = bad.read_bytes()
    bad.write_bytes(b"nothing")
    skipped = pack_folder(source, tmp_path / "set", 8, val_fraction=0, options=PackOptions("skip", shard=(1, 1)))
    assert [s.path for s in skipped] == [bad]
    bad.write_bytes(whole)
    assert pack_folder(source, tmp_path / "set", 8, val_fraction=0) == []
    assert len(PackedDataset(tmp_path / "set", "train")) == 6
    pack_folder(source, tmp_path / "two", 8, val_fraction=0, options=PackOptions(shard=(1, 1)))
    (part,) = (tmp_path / ".two.parts").glob("*.npz")
    part.write_bytes(part.read_bytes()[:100])
    pack_folder(source, tmp_path / "two", 8, val_fraction=0)
    assert len(PackedDataset(tmp_path / "two", "train")) == 6


def test_parts_of_a_run_killed_while_it_tidied_up_go_with_the_next(tmp_path, monkeypatch):
    source = photos(tmp_path / "photos")
    with monkeypatch.context() as patch:
        patch.setattr("gmsop.data.prepare.chunks.shutil.rmtree", lambda *a, **k: None)
        pack_folder(source, tmp_path / "set", 8)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".set.parts-done", "photos", "set"]
    with pytest.raises(DataError, match="already exists"):
        pack_folder(source, tmp_path / "set", 8)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "set"]


def test_an_image_that_changed_since_is_decoded_again(tmp_path):
    source = photos(tmp_path / "photos")
    pack_folder(source, tmp_path / "set", 8, val_fraction=0, options=PackOptions(shard=(1, 1)))
    changed = source / "b" / "5.png"
    save(np.full((9, 9, 3), 7, np.uint8), changed)
    os.utime(changed, ns=(0, 0))
    pack_folder(source, tmp_path / "set", 8, val_fraction=0)
    assert PackedDataset(tmp_path / "set", "train").images[:, 0, 0, 0].tolist() == [0, 80, 160, 40, 120, 7]


def test_parts_that_do_not_say_of_which_list_are_of_another(tmp_path):
    source = photos(tmp_path / "photos")
    pack_folder(source, tmp_path / "set", 8, val_fraction=0, options=PackOptions(shard=(1, 1)))
    (tmp_path / ".set.parts" / "job").unlink()
    with pytest.raises(DataError, match=r"another list .* If not, remove that folder, or pass --overwrite"):
        pack_folder(source, tmp_path / "set", 8, val_fraction=0)
    with pytest.raises(DataError, match=r"If not, remove that folder$"):
        pack_folder(source, tmp_path / "set", 8, val_fraction=0, options=PackOptions(shard=(1, 2), overwrite=True))
    pack_folder(source, tmp_path / "set", 8, val_fraction=0, options=PackOptions(overwrite=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "set"]


def test_a_part_with_damaged_pixels_is_named_and_done_again(tmp_path):
    source = photos(tmp_path / "photos")
    pack_folder(source, tmp_path / "set", 8, val_fraction=0, options=PackOptions(shard=(1, 1)))
    (part,) = (tmp_path / ".set.parts").glob("*.npz")
    content = bytearray(part.read_bytes())
    content[content.index(bytes([80] * 24))] ^= 1  # a pixel of the second image
    part.write_bytes(content)
    with pytest.raises(DataError, match=r"000000.npz: damaged .*run again"):
        pack_folder(source, tmp_path / "set", 8, val_fraction=0)
    pack_folder(source, tmp_path / "set", 8, val_fraction=0)
    assert PackedDataset(tmp_path / "set", "train").images[1, 0, 0, 0] == 80


def test_processes_pack_the_same_set_as_one(tmp_path, sample, monkeypatch):
    many(tmp_path / "src", sample, 40)
    monkeypatch.setattr(parts, "CHUNK", 2)  # more parts than are handed out at once
    monkeypatch.setattr(parts, "FEW", 0)
    for name, workers in (("one", 1), ("two", 2)):
        pack_folder(tmp_path / "src", tmp_path / name, val_fraction=0, options=PackOptions(workers=workers))
    for file in ("images.npy", "labels.npy"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="started processes do not see what is patched here")
def test_a_process_that_dies_is_said_and_nothing_is_lost(tmp_path, sample, monkeypatch):
    many(tmp_path / "src", sample, 40)
    monkeypatch.setattr(parts, "CHUNK", 4)
    monkeypatch.setattr(parts, "FEW", 0)
    original, seen = parts.decode_rgb, []
    with monkeypatch.context() as patch:
        dying = lambda *a: seen.append(1) or (original(*a) if len(seen) < 10 else os._exit(9))  # noqa: E731
        patch.setattr(parts, "decode_rgb", dying)
        with pytest.raises(DataError, match=r"a process died .* Run again to go on"):
            pack_folder(tmp_path / "src", tmp_path / "set", val_fraction=0, options=PackOptions(workers=2))
    done = len(list((tmp_path / ".set.parts").glob("*.npz")))
    assert 0 < done < 10
    decoded: list[int] = []
    monkeypatch.setattr(parts, "decode_rgb", lambda *a: decoded.append(1) or original(*a))
    pack_folder(tmp_path / "src", tmp_path / "set", val_fraction=0, options=PackOptions(workers=1))
    assert len(decoded) == 40 - 4 * done
    assert len(PackedDataset(tmp_path / "set", "train")) == 40


def test_a_part_of_another_job_is_not_taken_for_ones_own(tmp_path, monkeypatch):
    """Two jobs that begin at the same moment see no parts of each other's yet."""
    source = photos(tmp_path / "photos")
    decode = parts._decode_chunk

    def overtaken(files, target, *rest):
        found = decode(files, target, *rest)
        monkeypatch.setattr(parts, "_decode_chunk", decode)
        pack_folder(source, tmp_path / "other", 8, "box", val_fraction=0, options=PackOptions(shard=(1, 1)))
        (tmp_path / ".other.parts" / target.name).replace(target)
        return found

    monkeypatch.setattr(parts, "_decode_chunk", overtaken)
    with pytest.raises(DataError, match=r"000000\.npz: of another list of images, size or filter"):
        pack_folder(source, tmp_path / "set", 8, "lanczos", val_fraction=0)
    assert not (tmp_path / "set").exists()
    pack_folder(source, tmp_path / "set", 8, "lanczos", val_fraction=0)
    assert read_meta(tmp_path / "set")["filter"] == "lanczos"


def test_a_part_with_a_damaged_header_is_done_again(tmp_path):
    source = photos(tmp_path / "photos")
    pack_folder(source, tmp_path / "set", 8, val_fraction=0, options=PackOptions(shard=(1, 1)))
    (part,) = (tmp_path / ".set.parts").glob("*.npz")
    content = part.read_bytes()
    part.write_bytes(content.replace(b"}", b" "))  # NumPy reads its headers as Python
    pack_folder(source, tmp_path / "set", 8, val_fraction=0)
    assert len(PackedDataset(tmp_path / "set", "train")) == 6


def test_a_set_of_no_readable_image_is_not_made(tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "0.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="none of the 1 images to train on can be read"):
        pack_folder(tmp_path / "photos", tmp_path / "set", 8, val_fraction=0, options=PackOptions("skip"))
