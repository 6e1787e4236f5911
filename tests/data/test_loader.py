import numpy as np
import torch

from gmsop.data import PackedDataset, PackedWriter, sample_path, train_loader, val_loader


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
