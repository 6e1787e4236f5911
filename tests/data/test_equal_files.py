"""Files that are equal are found, and what a model would learn from and be judged on is warned of."""

import warnings

import numpy as np
import pytest
from PIL import Image

from gmsop.data.data_options import DataOptions
from gmsop.data.equal_files import equal_files, warn_of_equal_files
from gmsop.data.labelled_images import find_images
from gmsop.data.training_images import find_training_images
from gmsop.errors import DataError, DataWarning


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes of five images, all different."""
    for number in range(10):
        draw(tmp_path / "data" / "ab"[number % 2] / f"{number}.png", number)
    return tmp_path / "data"


def test_what_is_equal_byte_by_byte(tmp_path):
    contents = [b"x" * 9000, b"y" + b"x" * 8999, b"x" * 9000, b"x" * 8999, b"", b"", b"y" + b"x" * 8999]
    files = [tmp_path / str(number) for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    assert sorted(equal_files([*files, tmp_path / "nowhere", tmp_path])) == [[0, 2], [1, 6], [4, 5]]


def test_nothing_is_said_of_different_images(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_equal_files(find_images(folder), None)
        find_training_images(str(folder), DataOptions(val_share=0.4))


def test_equal_images_of_both_sets(folder, tmp_path):
    for split, shift in (("train", 0), ("val", 3)):
        for number in range(5):
            for name in "ab":
                draw(tmp_path / "split" / split / name / f"{number}.png", 100 * ord(name) + number + shift)
    with pytest.warns(DataWarning, match=r"4 to judge on are training images, too.*\(train/a/3.png and val/a/0.png"):
        find_training_images(str(tmp_path / "split"), DataOptions())
    (folder / "a" / "again.png").write_bytes((folder / "a" / "2.png").read_bytes())
    (folder / "b" / "other.png").write_bytes((folder / "a" / "4.png").read_bytes())
    with pytest.warns(DataWarning, match=r"2 are there more than once.*1 have two different labels \(a/4.png and b/ot"):
        warn_of_equal_files(find_images(folder), None)


def test_a_table_that_gives_an_image_two_labels(folder):
    (folder / "t.csv").write_text("path,label\na/0.png,x\nb/1.png,y\na/0.png,y\n")
    with pytest.raises(DataError, match=r"line 4: a/0.png has two labels: 'x' in line 2, 'y' here"):
        find_images(folder / "t.csv")
    (folder / "t.csv").write_text("path,label\na/0.png,x\nb/1.png,y\na/0.png,x\n")
    with pytest.warns(DataWarning, match="1 are there more than once"):
        warn_of_equal_files(find_images(folder / "t.csv"), None)
