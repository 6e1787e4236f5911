"""Images from Hugging Face datasets and WebDataset shards, in folders on this disk."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from photos import make_photos, pixels
from PIL import Image

from gmsop.data import train_loader, val_loader
from gmsop.data.data_options import DataOptions
from gmsop.data.streamed import Streamed
from gmsop.data.training_images import find_training_images
from gmsop.errors import ConfigError, DataError
from gmsop.training.recipe import Recipe
from gmsop.training.run import train

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def squares(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((16, 16)))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Four shards of six images to train on, two of six to validate on; the first image of each lies on its side."""
    folder = tmp_path_factory.mktemp("shards")
    for split, count in (("train", 4), ("validation", 2)):
        for shard in range(count):
            with tarfile.open(folder / f"x-{split}-{shard:03}.tar", "w") as tar:
                for i in range(6):
                    label = i % 3
                    image = Image.fromarray(pixels(label, 100 * shard + i + 1000 * (split == "validation")))
                    exif = Image.Exif()
                    if i == 0:
                        exif[0x0112] = 6
                        image = image.transpose(Image.Transpose.ROTATE_90)
                    buffer = io.BytesIO()
                    image.save(buffer, "JPEG", exif=exif, quality=95)
                    for suffix, content in (("jpg", buffer.getvalue()), ("cls", str(label).encode())):
                        info = tarfile.TarInfo(f"{shard}_{i}.{suffix}")
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
    splits = {
        split: {
            "name": split, "num_samples": 6 * count, "shard_lengths": [6] * count,
            "filenames": [f"x-{split}-{i:03}.tar" for i in range(count)],
        }
        for split, count in (("train", 4), ("validation", 2))
    }  # fmt: skip
    (folder / "_info.json").write_text(json.dumps({"name": "x", "splits": splits}))
    (folder / "classes.txt").write_text("red\ngreen\nblue\n")
    return folder


def options(shards, **more):
    return DataOptions(data_dir=str(shards), class_map=str(shards / "classes.txt"), **more)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_are_read_in_an_order_of_seed_and_epoch(shards, workers):
    found = find_training_images("wds/x", options(shards))
    assert (len(found.train), len(found.val), found.class_names) == (24, 12, ["red", "green", "blue"])
    part = Streamed(found.train, "train", squares, 16, 5)

    def read(epoch):
        loader = train_loader(part, 4, 5, num_workers=workers)
        assert len(loader) == 6
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader)
        return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])

    (images, labels), (again, _), (other, _) = read(1), read(1), read(2)
    assert (images.float().mean((1, 2)).argmax(1) == labels).all()
    assert (images[:, :4].float().mean((1, 2, 3)) > images[:, -4:].float().mean((1, 2, 3)) + 20).all()  # upright
    assert torch.equal(images, again)
    assert not torch.equal(images, other)


def test_every_image_counts_once_in_evaluation(shards):
    found = find_training_images("wds/x", options(shards))
    part = Streamed(found.val, "val", squares, 16)
    seen = [
        image.numpy().tobytes()
        for rank in range(3)
        for images, _ in val_loader(part, 4, num_workers=rank, num_replicas=3, rank=rank)
        for image in images
    ]
    assert len(seen) == len(set(seen)) == 12


def test_a_run_on_shards_goes_on_between_epochs(shards, tmp_path):
    settings = Recipe(
        model="", backbone="test_resnet", head="sr_sop", images="photographs", image_size=64, epochs=2, batch_size=6,
        lr=0.01, normalize="model", stem_scale=1, num_workers=1, checkpoint_every=1,
    )  # fmt: skip
    whole = train(settings, "wds/x", tmp_path / "whole", data_options=options(shards))
    assert whole.result.images == 12
    shutil.copytree(tmp_path / "whole", tmp_path / "within")
    (tmp_path / "within" / "last.ckpt").unlink()  # the one before is from within the second epoch
    (tmp_path / "within" / "best.ckpt").unlink()
    with pytest.raises(ConfigError, match="between epochs only"):
        train(settings, "wds/x", tmp_path / "within", tmp_path / "within", data_options=options(shards))


def test_streams_that_cannot_work(shards):
    with pytest.raises(DataError, match="split nothing"):
        find_training_images("wds/x", options(shards, train_split="nothing"))
    with pytest.raises(DataError, match="pass --class_map"):
        find_training_images("wds/x", DataOptions(data_dir=str(shards)))
    found = find_training_images("wds/x", options(shards))
    with pytest.raises(ConfigError, match="4 shards cannot be shared by 5"):
        train_loader(Streamed(found.train, "train", squares, 16, 5), 2, 5, num_replicas=5)


def test_a_hugging_face_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = make_photos(tmp_path / "photos", 4, ("train", "test"))
    found = find_training_images(f"hfds/{folder}", DataOptions(data_dir=str(tmp_path / "cache")))
    assert (len(found.train), len(found.val), found.held_out) == (12, 12, False)
    assert found.class_names == ["Dog", "a cat", "ün"]
    for i in range(12):
        image = np.asarray(found.train.reader.image(i))
        assert image.mean((0, 1)).argmax() == found.train.labels[i]
        assert image[:16].mean() > image[-16:].mean() + 20
    stream = find_training_images(
        f"hfids/{folder}",
        DataOptions(data_dir=str(tmp_path / "cache"), val_split="test", num_samples=12, val_samples=12),
    )
    loader = train_loader(Streamed(stream.train, "train", squares, 16, 5), 4, 5)
    images = torch.cat([images for images, _ in loader])
    assert len(images) == 12
