"""Folders and tables as people have them: other names of splits, two spellings, hidden and foreign files, EXIF."""

import csv
import os
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import gmsop
from gmsop.cli import main
from gmsop.data import FolderDataset, PackedDataset, inspect_set
from gmsop.data.class_names import label_of_folders, require_one_spelling
from gmsop.data.image_files import image_classes, split_folders
from gmsop.data.images import EXTENSIONS, decode_rgb
from gmsop.data.labelled_images import find_images
from gmsop.data.prepare.class_folders import pack_folder
from gmsop.data.prepare.options import PackOptions
from gmsop.data.prepare.places365 import CATEGORIES, _categories
from gmsop.errors import ConfigError, DataError, DataWarning
from gmsop.utils.text import cell, printable


def photos(folder, classes, count=4, extension="png", start=0):
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            shade = (start + 20 * place + i, 2 * i, 7 * place)
            Image.new("RGB", (8, 8), shade).save(folder / name / f"{i:03d}.{extension}")
    return folder


def split_names(folder):
    return {split: np.bincount(PackedDataset(folder, split).labels).tolist() for split in ("train", "val")}


@pytest.mark.parametrize(
    ("train", "val"),
    [("train", "valid"), ("training", "validation"), ("Train", "VAL"), ("TRAINING", "eval"), ("train", "test")],
)
def test_the_folders_of_splits_have_other_names(tmp_path, train, val):
    photos(tmp_path / "data" / train, ["cat", "dog"])
    photos(tmp_path / "data" / val, ["cat", "dog"], 2, start=100)
    pack_folder(tmp_path / "data", tmp_path / "set", 8)
    assert split_names(tmp_path / "set") == {"train": [4, 4], "val": [2, 2]}
    found = find_images(tmp_path / "data")
    assert found.is_test.sum() == 4
    assert found.class_names == ["cat", "dog"]
    if val != "test":
        assert len(FolderDataset(tmp_path / "data", "val", 8)) == 4


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train", "holdout"), "holdout, of which the use is not known"),
        (("train", "val", "extra"), "extra, of which the use is not known"),
        (("train", "val", "valid"), "val and valid both name one split"),
        (("val", "cat"), "has a val, but no train"),
        (("part1", "part2"), "all hold the same folders"),
    ],
)
def test_a_folder_of_which_the_use_is_not_known_is_refused(tmp_path, names, message):
    for name in names:
        photos(tmp_path / "data" / name, ["cat", "dog"])
    with pytest.raises(DataError, match=message):
        pack_folder(tmp_path / "data", tmp_path / "set", 8)
    with pytest.raises(DataError, match=message):
        find_images(tmp_path / "data")


def test_classes_that_hold_splits_are_refused(tmp_path):
    for name in ("cat", "dog"):
        photos(tmp_path / "data" / name, ["train", "val"])
    with pytest.raises(DataError, match="one of both is splits, not classes"):
        pack_folder(tmp_path / "data", tmp_path / "set", 8)


def test_classes_may_hold_one_folder_of_the_same_name(tmp_path):
    for name in ("cat", "dog"):
        photos(tmp_path / "data" / name, ["images"])
    assert sorted(image_classes(tmp_path / "data")) == ["cat", "dog"]


def test_a_class_may_be_called_train(tmp_path):
    photos(tmp_path / "data", ["bus", "train"])
    assert split_folders(tmp_path / "data") == (tmp_path / "data", None)


def test_test_beside_val_is_left_alone_with_a_warning(tmp_path):
    for name in ("train", "val", "test"):
        photos(tmp_path / "data" / name, ["cat", "dog"], 4 if name == "train" else 2)
    with pytest.warns(DataWarning, match="those of test are left alone"):
        pack_folder(tmp_path / "data", tmp_path / "set", 8)
    assert split_names(tmp_path / "set") == {"train": [4, 4], "val": [2, 2]}


@pytest.mark.parametrize(
    "pair",
    [("cat", "Cat"), ("hot dog", "hot_dog"), ("0", "0.0"), ("1", "01"), ("a b", "a  b"), ("caf\u00e9", "cafe\u0301")],
)
def test_two_spellings_of_one_class_are_refused_by_name(tmp_path, pair):
    with pytest.raises(DataError, match="probably one, in two spellings") as error:
        require_one_spelling([*pair, "other"], "here")
    assert all(repr(name) in str(error.value) for name in pair)
    rows = [("path", "label"), *((f"{i}.png", pair[i % 2]) for i in range(4))]
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(DataError, match="two spellings"):
        find_images(tmp_path / "list.csv")
    with pytest.raises(DataError, match="two spellings"):
        pack_folder(tmp_path / "list.csv", tmp_path / "set", 8)


def test_names_that_only_look_alike_are_classes():
    require_one_spelling(["a", "A", "1", "10", "-1", "nan", "inf", "T-shirt", "Tshirt", "C", "C-"], "here")


def test_spaces_around_the_cells_of_a_table_do_not_count(tmp_path):
    photos(tmp_path, ["cat", "dog"])
    lines = ["path,label", "cat/000.png,cat", "cat/001.png, cat", "dog/000.png ,dog", " dog/001.png,dog "]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    assert find_images(tmp_path / "list.csv").class_names == ["cat", "dog"]
    pack_folder(tmp_path / "list.csv", tmp_path / "set", 8)
    assert PackedDataset(tmp_path / "set", "train").class_names == ["cat", "dog"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_by_windows(tmp_path, encoding):
    photos(tmp_path, ["cat", "h\u00fcte"])
    rows = [
        "path,label,split",
        *(f"cat\\00{i}.png,cat,{s}" for i, s in enumerate(("Train", "training", "VALID", "val"))),
    ]
    rows += [f"h\u00fcte\\00{i}.png,h\u00fcte,{s}" for i, s in enumerate(("train", "train", "val", "val"))]
    (tmp_path / "list.csv").write_text("\r\n".join(rows), encoding=encoding)
    found = find_images(tmp_path / "list.csv")
    assert found.class_names == ["cat", "h\u00fcte"]
    assert found.is_test.tolist() == [False, False, True, True] * 2
    pack_folder(tmp_path / "list.csv", tmp_path / "set", 8)
    assert split_names(tmp_path / "set") == {"train": [2, 2], "val": [2, 2]}


def test_missing_files_of_a_table_are_one_line(tmp_path):
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"C:\\data\\{i}.png,{i % 2}\n" for i in range(120)))
    with pytest.raises(DataError, match=r"120 of 120 files are not there, the first is C:\\data\\0.png") as error:
        pack_folder(tmp_path / "list.csv", tmp_path / "set", 8)
    assert "\n" not in str(error.value)


def test_hidden_and_foreign_files_are_no_photographs(tmp_path):
    data = photos(tmp_path / "data", ["cat", "dog"])
    for hidden in (".ipynb_checkpoints", "__MACOSX", ".thumbs/deep", "sub/.cache"):
        photos(data / "cat", [hidden])
    photos(data, [".hidden"])
    Image.new("RGB", (8, 8)).save(data / "cat" / "._000.png")
    (data / "cat" / "Thumbs.db").write_bytes(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {name: len(files) for name, files in image_classes(data).items()} == {"cat": 4, "dog": 4}
    shutil.rmtree(data / "dog")
    photos(data / "dog", [".ipynb_checkpoints"])
    with pytest.raises(DataError, match=r"no image .* in dog"):
        image_classes(data)


def test_what_is_left_out_is_counted(tmp_path):
    data = photos(tmp_path / "data", ["cat", "dog"])
    for i in range(3):
        (data / "cat" / f"{i}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
        (data / "dog" / f"{i}.xml").write_text("x")
    Image.new("RGB", (8, 8)).save(data / "lost.png")
    with pytest.warns(DataWarning) as caught:
        image_classes(data)
    text = str(caught[0].message)
    assert "3 .xml" in text
    assert "1 images that lie in no class's folder" in text
    assert ".heic" in EXTENSIONS or ("3 .HEIC" in text and "pip install pillow-heif" in text)


def test_avif_is_read_where_pillow_can(tmp_path):
    if ".avif" not in EXTENSIONS:
        pytest.skip("this Pillow has no AVIF")
    photos(tmp_path / "data", ["cat", "dog"], extension="avif")
    assert len(image_classes(tmp_path / "data")["cat"]) == 4


def test_a_heic_photograph_is_named_as_such():
    with pytest.raises(DataError, match=r"HEIC photograph.*pip install pillow-heif"):
        decode_rgb(b"\0\0\0\x18ftypheic" + bytes(40), 8)


def test_a_class_of_train_without_validation_images_is_said(tmp_path):
    photos(tmp_path / "data" / "train", ["cat", "rings"])
    photos(tmp_path / "data" / "val", ["cat"], 2)
    (tmp_path / "data" / "val" / "rings").mkdir()
    with pytest.warns(DataWarning, match="no image of rings, a class of the training images"):
        pack_folder(tmp_path / "data", tmp_path / "set", 8)
    (tmp_path / "data" / "val" / "dogs").mkdir()
    with pytest.raises(DataError, match=r"no image .* in dogs"):
        pack_folder(tmp_path / "data", tmp_path / "set2", 8)


@pytest.fixture
def model(tmp_path):
    net = gmsop.create_model("sr_sop_tiny", 2).eval()
    net.pretrained_cfg.update(label_names=["cat", "dog"])
    gmsop.save_model(net, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_skipped_in_evaluation_when_asked(tmp_path, model, capfd, workers):
    data = photos(tmp_path / "data", ["cat", "dog"], 5)
    (data / "dog" / "001.png").write_bytes(b"broken")
    argv = ["evaluate", str(model), f"--data={data}", "--batch_size=3", f"--num_workers={workers}"]
    assert main(argv) == 1
    assert "001.png: not an image" in capfd.readouterr().err
    assert main([*argv, "--on_error=skip"]) == 0
    printed = capfd.readouterr()
    assert "9 images" in printed.out
    assert "001.png: not an image" in printed.err
    assert "1 images cannot be read and do not count" in printed.err
    whole = gmsop.evaluate(gmsop.load_model(model), FolderDataset(data, "val", 64, on_error="skip"))
    (data / "dog" / "001.png").unlink()
    without = gmsop.evaluate(gmsop.load_model(model), FolderDataset(data, "val", 64))
    assert torch.equal(whole.confusion, without.confusion)
    assert whole.loss == pytest.approx(without.loss)
    with pytest.raises(ConfigError, match="on_error"):
        FolderDataset(data, "val", 64, on_error="maybe")


def test_a_folder_of_which_nothing_can_be_read(tmp_path, model):
    data = photos(tmp_path / "data", ["cat", "dog"], 1)
    for file in data.glob("*/*.png"):
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match="no image can be read; the first"):
        gmsop.evaluate(gmsop.load_model(model), FolderDataset(data, "val", 64, on_error="skip"))


def test_folders_in_the_ways_of_a_model_s_classes(tmp_path):
    names = ["airfield", "apartment_building/outdoor", "arch"]
    ways = ["a/airfield", "a/apartment_building/outdoor", "apartment_building/outdoor", "arch/some/where"]
    assert label_of_folders(ways, names) == dict(zip(ways, (0, 1, 1, 2), strict=True))
    with pytest.raises(DataError, match="knows no class named apartment_building/indoor"):
        label_of_folders(["apartment_building/indoor"], names)
    photos(tmp_path / "data", [f"a/{name}" for name in names], 2)
    found = FolderDataset(tmp_path / "data", "val", 8, names)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    photos(tmp_path / "other", ["feld", "haus", "bogen"], 2)
    found = FolderDataset(tmp_path / "other", "val", 8, names, folder_names=["feld", "haus", "bogen"])
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.class_names == names
    with pytest.raises(ConfigError, match="2 names of folders for a model of 3"):
        FolderDataset(tmp_path / "other", "val", 8, names, folder_names=["a", "b"])


def test_folders_of_wordnet_ids_for_a_model_of_imagenet():
    from gmsop.data.imagenet_classes import release_classes

    classes = sorted(release_classes())
    names = [c.name for c in classes]
    assert label_of_folders([classes[7].wnid, names[9]], names) == {classes[7].wnid: 7, names[9]: 9}


TURNS = [
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_270,
]  # fmt: skip
"""How a camera stores an upright scene for each orientation from 2 to 8."""


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tiff"])
def test_photographs_are_turned_as_their_exif_data_says(tmp_path, orientation, extension):
    scene = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((16, 16), np.uint8))
    upright = Image.fromarray(scene).convert("RGB")
    stored = upright if orientation == 1 else upright.transpose(TURNS[orientation - 2])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a.{extension}", exif=exif)
    found = decode_rgb(tmp_path / f"a.{extension}", 32).astype(int)
    assert abs(found - np.asarray(upright)).max() < 12
    if extension != "tiff":  # Pillow itself turns TIFF
        as_stored = decode_rgb(tmp_path / f"a.{extension}", 32, exif_orientation=False).astype(int)
        assert abs(as_stored - np.asarray(stored)).max() < 12


def test_damaged_exif_data_says_nothing(tmp_path):
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode_rgb(tmp_path / "a.jpg", 8).max() < 12


def test_the_option_reaches_every_reader(tmp_path, model):
    exif = Image.Exif()
    exif[0x0112] = 3
    data = photos(tmp_path / "data", ["cat", "dog"], 3)
    half = np.zeros((8, 8, 3), np.uint8)
    half[:4] = 255
    for file in data.glob("*/*.png"):
        file.unlink()
        Image.fromarray(half).save(file.with_suffix(".png"), exif=exif)
    seen = []
    for turned in (True, False):
        pack_folder(data, tmp_path / f"set{turned}", 8, exif_orientation=turned)
        seen.append(
            [
                PackedDataset(tmp_path / f"set{turned}", "train").images[0],
                FolderDataset(data, "val", 8, exif_orientation=turned)[0][0],
                find_images(data, exif_orientation=turned).read(0, _how()),
            ]
        )
        argv = ["predict", str(model), str(data / "cat" / "000.png"), f"--exif_orientation={turned}"]
        assert main(argv) == 0
    for upright, stored in zip(*seen, strict=True):
        assert upright[0, 0, 0] == 0
        assert stored[0, 0, 0] == 255


def _how():
    from gmsop.data.preprocess import Preprocess

    return Preprocess(8, (0, 0, 0), (1, 1, 1))


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / CATEGORIES).write_text("/a/airfield 0\n/a/apartment_building/outdoor 1\n", encoding=encoding)
        assert _categories(tmp_path / CATEGORIES) == ["airfield", "apartment_building/outdoor"]


def test_equal_images_are_named(tmp_path, capfd):
    data = photos(tmp_path / "data" / "train", ["cat", "dog"]).parent
    photos(data / "val", ["cat", "dog"], 2, start=100)
    shutil.copy(data / "train" / "cat" / "001.png", data / "val" / "dog" / "copy.png")
    shutil.copy(data / "train" / "dog" / "000.png", data / "train" / "dog" / "again.png")
    assert main(["prepare", "folder", f"--source={data}", f"--out={tmp_path / 'set'}", "--size=8"]) == 0
    said = " ".join(capfd.readouterr().err.split())
    assert "1 images of val stand in train, too; 1 stand in train again; 1 have another label" in said
    assert main(["data", "inspect", str(tmp_path / "set")]) == 0
    printed = capfd.readouterr().out
    assert "train 1, train/cat/001.png (cat) = val 4, val/dog/copy.png (dog)" in printed
    assert "train 4, train/dog/000.png (dog) = train 8, train/dog/again.png (dog)" in printed
    assert inspect_set(tmp_path / "set").duplicates == [(1, 4)]


@pytest.fixture
def odd_names(tmp_path):
    """Classes whose names are not UTF-8, end a line, and clear a terminal's screen."""
    for i, name in enumerate(map(os.fsdecode, (b"caf\xe9", b"two\nlines", b"\x1b[2Jclear", b"[red]x"))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(4):
            image = Image.new("RGB", (8, 8), (20 * i + k, 0, 0))
            image.save(tmp_path / "data" / name / os.fsdecode(b"\xff%d.png" % k))
    return tmp_path / "data"


def test_names_that_are_not_utf8_are_printed_with_an_escape(odd_names, tmp_path, capfd):
    assert main(["prepare", "folder", f"--source={odd_names}", f"--out={tmp_path / 'set'}", "--size=64"]) == 0
    names = PackedDataset(tmp_path / "set", "train").class_names
    net = gmsop.create_model("sr_sop_tiny", 4).eval()
    net.pretrained_cfg.update(label_names=names)
    gmsop.save_model(net, tmp_path / "model.safetensors")
    assert gmsop.load_model(tmp_path / "model.safetensors").pretrained_cfg["label_names"] == names
    tables = [f"--class_csv={tmp_path / 'c.csv'}", f"--confusion={tmp_path / 'm.csv'}", "--overwrite"]
    for data in (odd_names, tmp_path / "set"):
        argv = ["evaluate", str(tmp_path / "model.safetensors"), f"--data={data}", "--per_class", *tables]
        assert main(argv) == 0
    file = next(path for path in odd_names.glob("caf*/*"))
    assert main(["predict", str(tmp_path / "model.safetensors"), str(file)]) == 0
    assert main(["data", "inspect", str(tmp_path / "set")]) == 0
    printed = capfd.readouterr()
    assert "caf\\xe9" in printed.out
    assert "\x1b" not in printed.out + printed.err
    assert "[red]x" in printed.out
    assert "two\\x0alines" in printed.out
    assert "caf\\xe9" in (tmp_path / "c.csv").read_text()


def test_what_is_printed_and_what_spreadsheets_get():
    assert printable("a\x1b[0m\udcff\u202eb\ttab") == "a\\x1b[0m\\xff\\u202eb\ttab"
    assert [cell(text) for text in ("=1+1", "@x", "-a", "+", "cat")] == ["'=1+1", "'@x", "'-a", "'+", "cat"]


def test_missing_files_can_be_skipped(tmp_path):
    photos(tmp_path, ["cat", "dog"])
    lines = ["path,label", *(f"{c}/00{i}.png,{c}" for c in ("cat", "dog") for i in range(5))]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    skipped = pack_folder(tmp_path / "list.csv", tmp_path / "set", 8, options=PackOptions(on_error="skip"))
    assert [bad.path.name for bad in skipped] == ["004.png", "004.png"]
