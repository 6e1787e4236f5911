import os
import pickle
import shutil
from zipfile import ZipFile

import numpy as np
import pytest
from release import planes, release, write

from gmsop.data import PackedDataset
from gmsop.data.prepare.imagenet import pack_imagenet, release_classes
from gmsop.data.prepare.options import WriteOptions
from gmsop.errors import ConfigError, DataError

KINDS = ["pickle", "numpy 1", "protocol 2", "npz", "zip of npz", "zip of pickle"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_the_release(tmp_path, sample, kind):
    images, labels = release(tmp_path / "down" / "deep", sample, kind)
    pack_imagenet(tmp_path / "down", tmp_path / "set")
    train, val = (PackedDataset(tmp_path / "set", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (30, 3)
    np.testing.assert_array_equal(np.concatenate([train.images, val.images]), images)
    np.testing.assert_array_equal(np.concatenate([train.labels, val.labels]), labels - 1)
    assert train.class_names[:3] == ["kit_fox", "English_setter", "Siberian_husky"]
    assert train.meta["class_order"] == "release"


@pytest.mark.parametrize("size", [32, 16, 8])
def test_other_sizes(tmp_path, sample, size):
    images, _ = release(tmp_path / "down", sample, "npz", size)
    pack_imagenet(tmp_path / "down", tmp_path / "set", size)
    np.testing.assert_array_equal(PackedDataset(tmp_path / "set", "val").images, images[30:])


def test_wordnet_order_is_that_of_timm(tmp_path, sample):
    from timm.data import ImageNetInfo

    _, labels = release(tmp_path / "down", sample)
    pack_imagenet(tmp_path / "down", tmp_path / "set", class_order="wordnet")
    train = PackedDataset(tmp_path / "set", "train")
    expected = ImageNetInfo().label_names()
    assert train.meta["wordnet_ids"] == expected
    released = release_classes()
    for label, original in zip(train.labels, labels, strict=False):
        assert expected[label] == released[original - 1].wnid


def test_the_class_list():
    classes = release_classes()
    assert len(classes) == len({c.wnid for c in classes}) == len({c.name for c in classes}) == 1000
    assert classes[999] == ("n03255030", "dumbbell")


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("was_run",)


@pytest.mark.parametrize("where", ["labels", "data", "mean", "extra"])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, sample, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    release(tmp_path / "down", sample)
    batch = pickle.loads((tmp_path / "down" / "train_data_batch_4").read_bytes())
    batch[where] = [Hostile()]
    write(tmp_path / "down", "train_data_batch_4", batch, "pickle")
    with pytest.raises(DataError, match=r"train_data_batch_4: .*mkdir.*not run"):
        pack_imagenet(tmp_path / "down", tmp_path / "set")
    assert not (tmp_path / "was_run").exists()
    assert not (tmp_path / "set").exists()


def test_missing_batches_are_named(tmp_path, sample):
    release(tmp_path / "down", sample)
    (tmp_path / "down" / "train_data_batch_3").unlink()
    (tmp_path / "down" / "val_data").unlink()
    with pytest.raises(DataError, match=r"found 9 of the 11 batches; missing: train_data_batch_3, val_data"):
        pack_imagenet(tmp_path / "down", tmp_path / "set")


def test_two_releases_in_one_folder(tmp_path, sample):
    release(tmp_path / "down" / "64", sample)
    release(tmp_path / "down" / "32", sample, size=32)
    with pytest.raises(DataError, match="train_data_batch_1 is there 2 times"):
        pack_imagenet(tmp_path / "down", tmp_path / "set")


def test_an_archive_beside_what_was_unpacked_from_it(tmp_path, sample):
    release(tmp_path / "down", sample, "zip of npz")
    images, _ = release(tmp_path / "down", sample, "npz")
    pack_imagenet(tmp_path / "down", tmp_path / "set")
    np.testing.assert_array_equal(PackedDataset(tmp_path / "set", "train").images, images[:30])


def test_batches_behind_a_link(tmp_path, sample):
    images, _ = release(tmp_path / "elsewhere", sample, "npz")
    (tmp_path / "down").mkdir()
    (tmp_path / "down" / "train").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "down")
    pack_imagenet(tmp_path / "down", tmp_path / "set")
    np.testing.assert_array_equal(PackedDataset(tmp_path / "set", "train").images, images[:30])


@pytest.mark.parametrize("kind", ["half a download", "a later version"])
def test_an_odd_archive_of_something_else_does_not_matter(tmp_path, sample, kind):
    images, _ = release(tmp_path / "down", sample, "npz")
    odd = b"PK\3\4 half a download"
    if kind == "a later version":
        with ZipFile(tmp_path / "down" / "other.zip", "w") as archive:
            archive.writestr("file", b"")
        odd = (tmp_path / "down" / "other.zip").read_bytes().replace(b"PK\1\2\x14\3\x14", b"PK\1\2\x14\3\xef")
    (tmp_path / "down" / "other.zip").write_bytes(odd)
    pack_imagenet(tmp_path / "down", tmp_path / "set")
    np.testing.assert_array_equal(PackedDataset(tmp_path / "set", "train").images, images[:30])
    (tmp_path / "down" / "val_data.npz").unlink()
    with pytest.raises(DataError, match=r"missing: val_data; .*other.zip: truncated or not a zip"):
        pack_imagenet(tmp_path / "down", tmp_path / "other")


@pytest.mark.parametrize("kind", ["pickle", "npz", "zip of npz", "zip of pickle"])
@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path, sample, kind, keep):
    release(tmp_path / "down", sample, kind)
    file = next(f for f in sorted((tmp_path / "down").iterdir()) if "batch_7" in f.name)
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    with pytest.raises(DataError, match="batch_7"):
        pack_imagenet(tmp_path / "down", tmp_path / "set")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["down"]


def test_a_damaged_header_is_named(tmp_path, sample):
    release(tmp_path / "down", sample, "npz")
    file = next(f for f in sorted((tmp_path / "down").iterdir()) if "batch_7" in f.name)
    file.write_bytes(file.read_bytes().replace(b"}", b" "))  # NumPy reads its headers as Python
    with pytest.raises(DataError, match=r"batch_7.*damaged"):
        pack_imagenet(tmp_path / "down", tmp_path / "set")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.update(labels=[0, 1, 2]), "labels run from 0 to 2"),
        (lambda b: b.update(labels=[1, 2, 1001]), "labels run from 1 to 1001"),
        (lambda b: b.update(labels=[1, 2]), "3 images and 2 labels"),
        (lambda b: b.update(labels=[0.5, 1, 2]), "whole numbers"),
        (lambda b: b.update(data=b["data"][:, :3072]), "32 x 32 images, not 64 x 64"),
        (lambda b: b.update(data=b["data"][:, :3000]), "no square images"),
        (lambda b: b.update(data=b["data"].astype(float)), "should be uint8"),
        (lambda b: b.pop("data"), "data"),
    ],
)
@pytest.mark.parametrize("kind", ["pickle", "npz"])
def test_a_wrong_batch_is_named(tmp_path, sample, kind, change, message):
    images, labels = release(tmp_path / "down", sample, kind)
    batch = {"data": planes(images[:3]), "labels": labels[:3].tolist()}
    change(batch)
    write(tmp_path / "down", "train_data_batch_1", batch, kind)
    with pytest.raises(DataError, match=rf"train_data_batch_1.*{message}"):
        pack_imagenet(tmp_path / "down", tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_an_old_set_stays_when_the_new_one_fails(tmp_path, sample):
    release(tmp_path / "down", sample)
    pack_imagenet(tmp_path / "down", tmp_path / "set")
    with pytest.raises(DataError, match="--overwrite"):
        pack_imagenet(tmp_path / "down", tmp_path / "set")
    (tmp_path / "down" / "val_data").write_bytes(b"no pickle")
    with pytest.raises(DataError, match="val_data"):
        pack_imagenet(tmp_path / "down", tmp_path / "set", options=WriteOptions(overwrite=True))
    assert len(PackedDataset(tmp_path / "set", "train", verify=True)) == 30
    shutil.rmtree(tmp_path / "down")
    with pytest.raises(DataError, match="no such folder"):
        pack_imagenet(tmp_path / "down", tmp_path / "set", options=WriteOptions(overwrite=True))


def test_bad_arguments(tmp_path):
    with pytest.raises(ConfigError, match="48"):
        pack_imagenet(tmp_path, tmp_path / "set", 48)
    with pytest.raises(ConfigError, match="class_order"):
        pack_imagenet(tmp_path, tmp_path / "set", class_order="alphabet")


def test_an_encrypted_archive_is_named(tmp_path, sample):
    release(tmp_path / "down", sample, "zip of npz")
    file = next(f for f in sorted((tmp_path / "down").iterdir()) if f.suffix == ".zip")
    content = bytearray(file.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # bit 0 of the flags, in both headers of a member
        at = content.find(mark)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(mark, at + 4)
    file.write_bytes(content)
    with pytest.raises(DataError, match=f"{file.name}.*encrypted"):
        pack_imagenet(tmp_path / "down", tmp_path / "set")


def test_the_space_is_asked_for_before_anything_is_written(tmp_path, sample, monkeypatch):
    asked = []
    monkeypatch.setattr("gmsop.data.writer.require_space", lambda folder, needed: asked.append(needed))
    for kind in ("pickle", "npz", "zip of pickle"):
        release(tmp_path / kind, sample, kind)
        pack_imagenet(tmp_path / kind, tmp_path / f"{kind} set")
    assert all(needed >= 33 * 64 * 64 * 3 for needed in asked)
    assert len(asked) == 3
