import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmsop.data import PackedDataset
from gmsop.data.images import decode_rgb
from gmsop.data.prepare.class_folders import image_classes, pack_folder
from gmsop.errors import ConfigError, DataError


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def coloured(value: int, size=(12, 9), mode="RGB") -> Image.Image:
    return Image.new(mode, size, (value, 2 * value, 0) if mode == "RGB" else value)


@pytest.fixture
def split_folder(tmp_path):
    for split, count in (("train", 3), ("val", 1)):
        for label, name in enumerate(("oak", "ash")):
            for i in range(count):
                save(tmp_path / "src" / split / name / f"{i}.png", coloured(10 * label + i))
    return tmp_path / "src"


def test_a_folder_with_its_own_split(split_folder, tmp_path):
    pack_folder(split_folder, tmp_path / "set", size=8)
    train, val = (PackedDataset(tmp_path / "set", split) for split in ("train", "val"))
    assert train.class_names == ["ash", "oak"]
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.images[:, 0, 0, 0].tolist() == [10, 11, 12, 0, 1, 2]
    assert val.labels.tolist() == [0, 1]
    assert train.images.shape == (6, 8, 8, 3)


def test_a_folder_without_split_holds_out_a_share_of_each_class(tmp_path):
    for name in ("a", "b"):
        for i in range(10):
            save(tmp_path / "src" / name / f"{i}.png", coloured(i, (4, 4)))
    sets = []
    for target, seed in (("s1", 0), ("s2", 0), ("s3", 1)):
        pack_folder(tmp_path / "src", tmp_path / target, 4, val_fraction=0.3, seed=seed)
        sets.append(PackedDataset(tmp_path / target, "val"))
        assert np.bincount(sets[-1].labels).tolist() == [3, 3]
        train = PackedDataset(tmp_path / target, "train")
        for label in (0, 1):
            values = [int(d.images[i, 0, 0, 0]) for d in (train, sets[-1]) for i in np.flatnonzero(d.labels == label)]
            assert sorted(values) == list(range(10))
    assert np.array_equal(sets[0].images, sets[1].images)
    assert not np.array_equal(sets[0].images, sets[2].images)


@pytest.mark.parametrize("empty", [True, False])
def test_a_train_without_a_val_holds_out_its_share(split_folder, tmp_path, empty):
    shutil.rmtree(split_folder / "val")
    if empty:
        (split_folder / "val").mkdir()
    pack_folder(split_folder, tmp_path / "set", 8, val_fraction=0.34)
    assert [PackedDataset(tmp_path / "set", s).labels.tolist() for s in ("train", "val")] == [[0, 0, 1, 1], [0, 1]]


def test_a_val_without_class_folders_is_refused(split_folder, tmp_path):
    shutil.rmtree(split_folder / "val")
    (split_folder / "val").mkdir()
    (split_folder / "val" / "0.png").write_bytes(b"an image")
    with pytest.raises(DataError, match="val: no CLASS/"):
        pack_folder(split_folder, tmp_path / "set")


def test_a_val_without_a_train_is_refused(split_folder, tmp_path):
    shutil.rmtree(split_folder / "train")
    with pytest.raises(DataError, match="has a val, but no train"):
        pack_folder(split_folder, tmp_path / "set")


def test_train_may_be_the_name_of_a_class(tmp_path):
    for name in ("bus", "train"):
        save(tmp_path / "src" / name / "0.png", coloured(9))
    pack_folder(tmp_path / "src", tmp_path / "set", 4, val_fraction=0)
    assert PackedDataset(tmp_path / "set", "train").class_names == ["bus", "train"]


def test_a_class_without_images_is_named(split_folder, tmp_path):
    save(split_folder / "train" / ".thumbs" / "0.png", coloured(9))
    (split_folder / "train" / "notes").mkdir()
    (split_folder / "train" / "notes" / "a.txt").write_text("")
    with pytest.raises(DataError, match=r"train: no image \(.*\.jpg .*\) in notes; remove what is no class"):
        pack_folder(split_folder, tmp_path / "set")
    (split_folder / "train" / "notes" / "0.pgm").write_bytes(encoded(Image.new("L", (4, 4)), "PPM"))
    pack_folder(split_folder, tmp_path / "set", 4)
    assert PackedDataset(tmp_path / "set", "train").class_names == ["ash", "notes", "oak"]


def test_an_undecodable_image_is_named_and_nothing_is_left(split_folder, tmp_path):
    (split_folder / "train" / "ash" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"ash/1\.png: not an image"):
        pack_folder(split_folder, tmp_path / "set")
    assert [p.name for p in tmp_path.iterdir()] == ["src"]


def test_what_cannot_be_packed(split_folder, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        pack_folder(tmp_path / "none", tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        pack_folder(tmp_path / "empty", tmp_path / "set")
    with pytest.raises(ConfigError, match="val_fraction"):
        pack_folder(split_folder, tmp_path / "set", val_fraction=1.0)
    with pytest.raises(ConfigError, match="unknown filter 'sharp'; there are box"):
        pack_folder(split_folder, tmp_path / "set", filter="sharp")
    with pytest.raises(ConfigError, match="image size"):
        pack_folder(split_folder, tmp_path / "set", size=0)
    save(split_folder / "val" / "elm" / "0.png", coloured(1))
    with pytest.raises(DataError, match="classes in val that are not in train: elm"):
        pack_folder(split_folder, tmp_path / "set")


def encoded(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.new("L", (4, 4), 77), "PNG", (77, 77, 77)),
        (Image.new("RGBA", (4, 4), (1, 2, 3, 128)), "PNG", (1, 2, 3)),
        (Image.new("RGB", (4, 4), (9, 8, 7)).quantize(4), "PNG", (9, 8, 7)),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF", (255, 0, 0)),
        (Image.fromarray(np.full((4, 4), 0x4D00, np.uint16)), "PNG", (0x4D, 0x4D, 0x4D)),
        (Image.new("1", (4, 4), 1), "PNG", (255, 255, 255)),
    ],
    ids=["grey", "alpha", "palette", "cmyk", "16 bit", "black and white"],
)
def test_every_kind_of_image_becomes_rgb(image, kind, expected):
    out = decode_rgb(encoded(image, kind), 4)
    assert out.shape == (4, 4, 3)
    assert out.dtype == np.uint8
    assert tuple(out[1, 2]) == expected


def test_32_bits_a_pixel_are_refused():
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 200, np.int32)).save(buffer, "TIFF")
    with pytest.raises(DataError, match="32 bits a pixel"):
        decode_rgb(buffer.getvalue(), 4)


def test_links_to_folders_are_followed(tmp_path):
    """As torchvision does; one that leads back up is not entered."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "photos" / "b").mkdir(parents=True)
    for file in ("photos/b/0.png", "elsewhere/1.png", "elsewhere/2.png"):
        coloured(3).save(tmp_path / file)
    (tmp_path / "photos" / "b" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "photos")
    files = image_classes(tmp_path / "photos")
    assert [str(Path(f).relative_to(tmp_path / "photos")) for f in files["b"]] == [
        "b/0.png",
        "b/more/1.png",
        "b/more/2.png",
    ]


def test_box_filter_averages_whole_blocks():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 4, 3), np.uint8)
    out = decode_rgb(encoded(Image.fromarray(pixels), "PNG"), 2)
    expected = pixels.reshape(2, 4, 2, 2, 3).mean((1, 3))
    assert np.abs(out - expected).max() <= 1  # Pillow rounds twice: after the rows and after the columns


@pytest.mark.parametrize("kept", [0, 20, 300])
def test_truncated_images(kept):
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)), "JPEG")
    with pytest.raises(DataError):
        decode_rgb(data[:kept], 8)
