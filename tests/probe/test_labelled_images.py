"""Where labelled images may lie, and what is refused."""

import shutil

import numpy as np
import pytest
from probe_sets import folder_of_images

from gmsop.data.labelled_images import find_images
from gmsop.data.preprocess import Preprocess
from gmsop.errors import DataError, DataWarning

HOW = Preprocess(16, (0.5,) * 3, (0.5,) * 3, "bilinear")


def test_a_folder_of_classes(tmp_path):
    images = find_images(folder_of_images(tmp_path / "set"))
    assert images.class_names == ["class 0", "class 1", "class 2"]
    assert (len(images), images.is_test) == (24, None)
    assert images.names[0] == "class 0/0.png"
    assert images.read(0, HOW).shape == (16, 16, 3)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_a_folder_of_splits(tmp_path, name):
    path = folder_of_images(tmp_path / "set", split=True)
    (path / "val").rename(path / name)
    images = find_images(path)
    assert images.is_test.sum() == 6
    assert all(images.names[i].startswith(name) == images.is_test[i] for i in range(len(images)))


def test_a_folder_of_training_images_alone(tmp_path):
    path = folder_of_images(tmp_path / "set", split=True)
    shutil.rmtree(path / "val")
    images = find_images(path)
    assert (len(images), images.is_test, images.names[0]) == (18, None, "train/class 0/0.png")
    (path / "holdout").mkdir()
    with pytest.raises(DataError, match="beside train there is holdout"):
        find_images(path)


def test_a_class_may_be_called_train(tmp_path):
    path = folder_of_images(tmp_path / "set")
    (path / "class 2").rename(path / "train")
    assert find_images(path).class_names == ["class 0", "class 1", "train"]


def test_one_of_two_test_folders_is_taken_and_it_is_said(tmp_path):
    path = folder_of_images(tmp_path / "set", split=True)
    shutil.copytree(path / "val", path / "test")
    with pytest.warns(DataWarning, match="val are tested on; those of test are left alone"):
        assert find_images(path).is_test.sum() == 6


def test_a_packed_set(small_set):
    images = find_images(small_set)
    assert (len(images), images.is_test.sum(), len(images.class_names)) == (130, 40, 10)
    assert images.read(5, HOW).shape == (16, 16, 3)


def test_a_table(tmp_path):
    folder_of_images(tmp_path / "set")
    rows = ["file, class, split"]
    rows += [f"set/class {k}/{i}.png, kind {k}, {'test' if i > 5 else 'train'}" for k in range(2) for i in range(8)]
    table = tmp_path / "images.csv"
    table.write_text("\ufeff" + "\n".join(rows) + "\n\n", encoding="utf-8")
    images = find_images(table)
    assert images.class_names == ["kind 0", "kind 1"]
    assert (len(images), int(images.is_test.sum())) == (16, 4)
    assert images.names[0] == "set/class 0/0.png"


def test_the_fingerprint_is_of_content(tmp_path):
    path = folder_of_images(tmp_path / "set")
    shutil.copytree(path, tmp_path / "copy")
    before = find_images(path).fingerprint()
    assert find_images(tmp_path / "copy").fingerprint() == before
    (path / "class 0" / "0.png").write_bytes((path / "class 0" / "1.png").read_bytes())
    assert find_images(path).fingerprint() != before


def test_a_subset_keeps_classes(tmp_path):
    images = find_images(folder_of_images(tmp_path / "set", split=True))
    some = images.subset([3, 0])
    assert some.names == [images.names[3], images.names[0]]
    assert np.array_equal(some.read(0, HOW), images.read(3, HOW))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,kind\na.png,b\n", "column label or class"),
        ("", "got nothing"),
        ("path,label\nmissing.png,a\n", "not there, the first is"),
        ("path,label\nset/class 0/0.png\n", "line 2: 1 cells"),
        ("path,label\nset/class 0/0.png,\n", "line 2: no label"),
        ("path,label,split\nset/class 0/0.png,a,later\n", "split 'later'"),
        ("path,label\nset/class 0/0.png,a\n", "1 class"),
        ("path,label\n", "no image"),
        ("path,label,split\nset/class 0/0.png,a,val\nset/class 1/0.png,b,train\n", "no training image of class a"),
        ("path,label,split\nset/class 0/0.png,a,train\nset/class 1/0.png,b,train\n", "no images to test on"),
    ],
)
def test_tables_that_are_none(tmp_path, text, words):
    folder_of_images(tmp_path / "set", each=1)
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        find_images(tmp_path / "t.csv")


def test_what_is_no_data(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    (tmp_path / "latin.csv").write_bytes(b"path,label\n\xe9,a\n")
    one = folder_of_images(tmp_path / "one", classes=1)
    for path, words in (
        (tmp_path / "nowhere", "no such"),
        (tmp_path / "empty", "neither a packed set nor"),
        (tmp_path / "file.txt", "no .csv"),
        (tmp_path / "latin.csv", "UTF-8"),
        (one, "1 class"),
    ):
        with pytest.raises(DataError, match=words):
            find_images(path)
