import numpy as np
import pytest
import torch

from gmsop.data import PackedDataset, PackedWriter, sample_path, train_loader, val_loader
from gmsop.data.resident import fits
from gmsop.data.sampler import EpochSampler
from gmsop.errors import ConfigError


def numbered(path, count):
    """Image i is full of i on its left half, zero on its right."""
    with PackedWriter(path, 4, {"train": count, "val": 3}, ["a", "b"], "", "box") as writer:
        for i in range(count + 3):
            image = np.zeros((4, 4, 3), np.uint8)
            image[:, :2] = i
            writer.add(image, i % 2)
    return PackedDataset(path, "train")


def seen(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return [image.max().item() for images, _ in loader for image in images]


def test_every_image_once_in_a_new_order_each_epoch(tmp_path):
    loader = train_loader(numbered(tmp_path / "set", 23), 5, seed=0)
    first, second = seen(loader, 0), seen(loader, 1)
    assert sorted(first) == sorted(second) == list(range(23))
    assert first != second
    assert seen(loader, 0) == first
    assert seen(train_loader(numbered(tmp_path / "other", 23), 5, seed=1), 0) != first


def test_labels_go_with_their_images(tmp_path):
    for images, labels in train_loader(numbered(tmp_path / "set", 23), 5, seed=0):
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert (images.amax((1, 2, 3)) % 2 == labels).all()


def test_mirrored_copies(tmp_path):
    loader = train_loader(numbered(tmp_path / "set", 6), 4, seed=0, mirrored=True)
    left, right = [], []
    for images, _ in loader:
        for image in images[images.amax((1, 2, 3)) > 0]:
            (left if image[0, 0, 0] else right).append(image.max().item())
    assert sorted(left) == sorted(right) == [1, 2, 3, 4, 5]


def test_a_single_left_over_image_is_left_out(tmp_path):
    loader = train_loader(numbered(tmp_path / "set", 11), 5, seed=0)
    assert [len(labels) for _, labels in loader] == [5, 5]
    assert [len(labels) for _, labels in train_loader(numbered(tmp_path / "b", 12), 5, seed=0)] == [5, 5, 2]


def test_ranks_share_the_epoch(tmp_path):
    dataset = numbered(tmp_path / "set", 24)
    parts = [seen(train_loader(dataset, 3, 0, num_replicas=2, rank=r), 0) for r in (0, 1)]
    assert sorted(parts[0] + parts[1]) == list(range(24))


def test_workers_give_the_same_batches(tmp_path):
    dataset = numbered(tmp_path / "set", 23)
    assert seen(train_loader(dataset, 5, 0, num_workers=2), 3) == seen(train_loader(dataset, 5, 0), 3)


def test_validation_is_in_order_and_complete(tmp_path):
    numbered(tmp_path / "set", 5)
    loader = val_loader(PackedDataset(tmp_path / "set", "val"), 2)
    assert [image.max().item() for images, _ in loader for image in images] == [5, 6, 7]


def test_the_sample(sample):
    train, val = PackedDataset(sample, "train"), PackedDataset(sample, "val")
    assert (len(train), len(val), train.image_size, len(train.class_names)) == (1500, 500, 64, 10)
    assert np.bincount(train.labels).tolist() == [150] * 10
    assert np.bincount(val.labels).tolist() == [50] * 10
    assert train.class_names[0] == "AnnualCrop"


def test_a_damaged_sample_is_made_again(sample):
    file = sample / "images.npy"
    file.write_bytes(file.read_bytes()[:-1])
    assert sample_path() == sample
    assert len(PackedDataset(sample, "train", verify=True)) == 1500


def test_a_step_has_the_same_images_on_any_number_of_ranks(tmp_path):
    dataset = numbered(tmp_path / "set", 24)
    whole = seen(train_loader(dataset, 12, 0), 3)
    for ranks in (2, 3):
        parts = [seen(train_loader(dataset, 12 // ranks, 0, num_replicas=ranks, rank=r), 3) for r in range(ranks)]
        for step in range(2):
            images = [i for part in parts for i in part[step * 12 // ranks : (step + 1) * 12 // ranks]]
            assert sorted(images) == sorted(whole[step * 12 : step * 12 + 12])


def test_validation_is_shared_without_loss(tmp_path):
    numbered(tmp_path / "set", 20)
    val = PackedDataset(tmp_path / "set", "val")
    for kind in ("memmap", "resident"):
        loaders = [val_loader(val, 2, num_replicas=2, rank=r, kind=kind) for r in (0, 1)]
        parts = [[image.max().item() for images, _ in loader for image in images] for loader in loaders]
        assert parts == [[20, 22], [21]]


def test_unequal_ranks_never_share_an_image(tmp_path):
    dataset = numbered(tmp_path / "set", 23)
    parts = [seen(train_loader(dataset, 3, 0, num_replicas=4, rank=r), 2) for r in range(4)]
    assert [len(p) for p in parts] == [5] * 4
    assert len({i for p in parts for i in p}) == 20


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("count", "batch_size"), [(23, 5), (21, 5), (12, 5), (3, 1)])
def test_a_resident_set_gives_the_same_batches(tmp_path, count, mirrored, batch_size):
    dataset = numbered(tmp_path / "set", count)
    loaders = [train_loader(dataset, batch_size, 7, mirrored, kind=kind) for kind in ("memmap", "resident")]
    loaders += [val_loader(dataset, 5, kind=kind) for kind in ("memmap", "resident")]
    for a, b in (loaders[:2], loaders[2:]):
        for epoch in range(2):
            for loader in (a, b):
                if isinstance(loader.sampler, EpochSampler):
                    loader.sampler.set_epoch(epoch)
            batches = [list(loader) for loader in (a, b)]
            assert len(batches[0]) == len(batches[1]) == len(a) == len(b)
            for (x, y), (u, v) in zip(*batches, strict=True):
                assert torch.equal(x, u)
                assert torch.equal(y, v)


@pytest.mark.parametrize("kind", ["memmap", "resident"])
def test_an_epoch_can_be_entered_anywhere(tmp_path, kind):
    loader = train_loader(numbered(tmp_path / "set", 23), 5, seed=0, kind=kind)
    whole, following = seen(loader, 3), seen(loader, 4)
    loader.sampler.enter(3, 23)
    assert list(loader) == []
    loader.sampler.enter(3, 10)
    assert [image.max().item() for images, _ in loader for image in images] == whole[10:]
    assert seen(loader, 4) == following


def test_auto_is_resident_where_there_is_room(tmp_path, monkeypatch):
    dataset = numbered(tmp_path / "set", 23)
    device = torch.device("cuda")
    for free, expected in ((4 * dataset.images.nbytes, True), (4 * dataset.images.nbytes - 4, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        assert fits(dataset, device) == expected
    assert not fits(dataset, torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    with pytest.raises(ConfigError, match="does not fit"):
        train_loader(dataset, 5, 0, kind="resident", device=device)
