import h5py
import numpy as np
import pytest
import scipy.io
from release import sample_images

from compare import GOLDEN
from gmsop.data import PackedDataset
from gmsop.data.prepare.imdb import pack_imdb
from gmsop.errors import DataError


def imdb(file, sample, version: str, **changes) -> np.ndarray:
    """Twelve images as MATLAB would save them: labels and sets as doubles, sets mixed."""
    images = sample_images(sample, 12)
    arrays = {"labels": np.arange(12.0) % 4 + 1, "set": np.array([1, 2, 1, 3] * 3, float), **changes}
    if version == "v7.3":
        with h5py.File(file, "w", userblock_size=512) as f:
            f["images/data"] = images.transpose(0, 3, 2, 1)
            for name, values in arrays.items():
                f[f"images/{name}"] = values[:, None]
            f["meta/rgbMean"] = np.array([[1.5], [2.5], [3.5]])
    else:
        content = {"data": images.transpose(1, 2, 3, 0), **{k: v[None] for k, v in arrays.items()}}
        scipy.io.savemat(file, {"images": content, "meta": {"rgbMean": np.array([[1.5], [2.5], [3.5]])}},
                         do_compression=version == "v7")  # fmt: skip
    return images


@pytest.mark.parametrize("version", ["v5", "v7", "v7.3"])
def test_every_version(tmp_path, sample, version):
    images = imdb(tmp_path / "imdb.mat", sample, version)
    pack_imdb(tmp_path / "imdb.mat", tmp_path / "set")
    train, val = (PackedDataset(tmp_path / "set", split) for split in ("train", "val"))
    np.testing.assert_array_equal(train.images, images[[0, 2, 4, 6, 8, 10]])
    np.testing.assert_array_equal(val.images, images[[1, 5, 9]])
    assert train.labels.tolist() == [0, 2] * 3
    assert val.labels.tolist() == [1] * 3
    assert train.class_names == ["1", "2", "3"]
    assert train.meta["source_rgb_mean"] == [1.5, 2.5, 3.5]


def test_the_authors_own_example(tmp_path):
    """A file their code wrote: its images are upright, its mean is that of its images."""
    pack_imdb(GOLDEN / "imdb.mat", tmp_path / "set")
    with h5py.File(GOLDEN / "imdb.mat") as f:
        data, labels, where = f["images/data"][()], f["images/labels"][()].ravel(), f["images/set"][()].ravel()
    train = PackedDataset(tmp_path / "set", "train")
    first = np.flatnonzero(where == 1)[0]
    assert train.images[0][5, 9].tolist() == data[first, :, 9, 5].tolist()
    assert train.labels.tolist() == (labels[where == 1] - 1).tolist()


def test_class_names(tmp_path, sample):
    imdb(tmp_path / "imdb.mat", sample, "v7.3")
    pack_imdb(tmp_path / "imdb.mat", tmp_path / "set", ["a", "b", "c", "d"])
    assert PackedDataset(tmp_path / "set", "val").class_names == ["a", "b", "c", "d"]
    with pytest.raises(DataError, match="label"):
        pack_imdb(tmp_path / "imdb.mat", tmp_path / "other", ["a", "b"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.arange(12.0)}, "labels start at 0"),
        ({"labels": np.arange(12) + 0.5}, "whole numbers"),
        ({"labels": np.full(12, np.inf)}, "whole numbers"),
        ({"labels": np.full(12, 1e6)}, "labels run to 1000000 for 9 images"),
        ({"set": np.ones(11)}, "12 whole numbers"),
        ({"set": np.full(12, 2.0)}, "none is left to train on"),
    ],
)
def test_wrong_arrays(tmp_path, sample, changes, message):
    imdb(tmp_path / "imdb.mat", sample, "v7.3", **changes)
    with pytest.raises(DataError, match=message):
        pack_imdb(tmp_path / "imdb.mat", tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("version", ["v5", "v7.3"])
def test_truncated_or_something_else(tmp_path, sample, version):
    file = tmp_path / "imdb.mat"
    imdb(file, sample, version)
    whole = file.read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"no mat file at all" * 40):
        file.write_bytes(data)
        with pytest.raises(DataError, match=r"imdb\.mat"):
            pack_imdb(file, tmp_path / "set")
    scipy.io.savemat(file, {"net": 1})
    with pytest.raises(DataError, match="lacks images/data"):
        pack_imdb(file, tmp_path / "set")
    with pytest.raises(DataError, match="no such file"):
        pack_imdb(tmp_path / "nothing.mat", tmp_path / "set")


def test_md5_is_checked_when_asked(tmp_path, sample):
    imdb(tmp_path / "imdb.mat", sample, "v7.3")
    with pytest.raises(DataError, match="MD5"):
        pack_imdb(tmp_path / "imdb.mat", tmp_path / "set", md5=True)
