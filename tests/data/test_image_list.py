import os
import tracemalloc
from pathlib import Path

import pytest

from gmsop.data.prepare.image_list import ImageFile, ImageList


def listed(*files: tuple[str | Path, int]) -> ImageList:
    images = ImageList()
    images.extend(files)
    return images


def test_gives_back_what_came(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = os.fsdecode(b"/data/\xff caf\xc3\xa9\n.jpg")  # not UTF-8, and a line's end
    images = listed(("/data/a.jpg", 3), (Path("b/c.jpg"), 0), (odd, 364))
    expected = [ImageFile(Path("/data/a.jpg"), 3), ImageFile(tmp_path / "b" / "c.jpg", 0), ImageFile(Path(odd), 364)]
    assert list(images) == expected
    assert (images[-1], images[1:], images[5:]) == (expected[2], expected[1:], [])
    with pytest.raises(IndexError):
        images[3]


def test_digest_is_of_files_labels_and_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = listed(("a", 0), ("bc", 1))
    assert one.digest() == listed((tmp_path / "a", 0), (tmp_path / "bc", 1)).digest()
    others = [listed(("bc", 1), ("a", 0)), listed(("a", 1), ("bc", 0)), listed(("ab", 0), ("c", 1)), listed(("a", 0))]
    assert one.digest() not in [other.digest() for other in others]


def test_takes_little_memory():
    images = ImageList()
    tracemalloc.start()
    images.extend((f"/data/places365/data_256_standard/a/airfield/{i:08d}.jpg", i % 365) for i in range(20_000))
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken / len(images) < 100
