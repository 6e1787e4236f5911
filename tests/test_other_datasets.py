"""`evaluate` takes any dataset of images and labels, and refuses what it would judge wrongly."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, IterableDataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

import gmsop
from gmsop.errors import ConfigError, DataError, DataWarning

NAMES = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """20 images; one lies on its side, as its EXIF data says."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("folder")
    for number in range(20):
        place = root / NAMES[number % 3]
        place.mkdir(exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (70, 50, 3), np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 4 else 1
        image.save(place / f"{number}.png", exif=exif)
    return root


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = gmsop.create_model("gap_tiny", num_classes=3).eval()
    made.pretrained_cfg["label_names"] = NAMES
    return made


@pytest.fixture(scope="module")
def expected(model, folder):
    return gmsop.evaluate(model, gmsop.data.FolderDataset(folder, "val", 64, NAMES))


def test_a_folder_of_torchvision(model, folder, expected):
    for workers in (0, 1):
        found = gmsop.evaluate(model, ImageFolder(folder), num_workers=workers, batch_size=7)
        assert found.confusion.equal(expected.confusion)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    part = gmsop.evaluate(model, Subset(ImageFolder(folder), range(5)))
    assert part.images == 5


def test_a_dataset_of_hugging_face(model, folder, expected):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
    for given in (loaded, loaded.to_iterable_dataset()):
        found = gmsop.evaluate(model, given, batch_size=6)
        assert found.confusion.equal(expected.confusion)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)


def test_a_stream_and_pixels(model, folder, expected):
    class Stream(IterableDataset):
        def __iter__(self):
            for image, label in ImageFolder(folder):
                yield (
                    np.asarray(image.transpose(Image.Transpose.ROTATE_270) if image.getexif().get(274) == 6 else image),
                    label,
                )

    class Counted(Stream):
        def __len__(self):
            return 20

    assert gmsop.evaluate(model, Counted()).confusion.equal(expected.confusion)
    assert gmsop.evaluate(model, Stream()).confusion.equal(expected.confusion)
    tensors = [(torch.from_numpy(np.array(image)).permute(2, 0, 1), label) for image, label in Stream()]
    assert gmsop.evaluate(model, tensors).confusion.equal(expected.confusion)


def test_classes_in_another_order_are_found_by_name(model, folder, expected):
    other = gmsop.create_model("gap_tiny", num_classes=3).eval()
    order = [2, 0, 1]
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.fc.weight.copy_(model.fc.weight[order])
        other.fc.bias.copy_(model.fc.bias[order])
    other.pretrained_cfg["label_names"] = [NAMES[i] for i in order]
    assert gmsop.evaluate(other, ImageFolder(folder)).top1_error == expected.top1_error


def test_names_are_found_in_what_a_dataset_is_made_of(model, folder, expected):
    """Of a model that knows another class before them: numbers alone would be wrong."""
    import timm

    wide = gmsop.create_model("gap_tiny", num_classes=4).eval()
    wide.load_state_dict({**wide.state_dict(), **{k: v for k, v in model.state_dict().items() if "fc" not in k}})
    with torch.no_grad():
        wide.fc.weight[1:], wide.fc.bias[1:], wide.fc.bias[0] = model.fc.weight, model.fc.bias, -1e4
    wide.pretrained_cfg["label_names"] = ["ant", *NAMES]
    plain = ImageFolder(folder)
    for given in (
        Subset(Subset(plain, range(20)), range(20)),
        ConcatDataset([Subset(plain, range(10)), Subset(plain, range(10, 20))]),
        timm.data.create_dataset("", str(folder)),
    ):
        assert gmsop.evaluate(wide, given).top1_error == expected.top1_error
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train").rename_column(
        "label", "fine_label"
    )
    assert gmsop.evaluate(wide, loaded).top1_error == expected.top1_error


def test_labels_without_names_are_warned_of(model, folder, tmp_path):
    with pytest.warns(DataWarning, match="taken for the model's own numbers"):
        gmsop.evaluate(model, list(ImageFolder(folder)))
    with pytest.warns(DataWarning, match="changes its labels"):
        gmsop.evaluate(model, ImageFolder(folder, target_transform=lambda label: 2 - label))
    for name in ("cat", "owl"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "x.png")
    with pytest.raises(DataError, match="its parts have different classes"):
        gmsop.evaluate(model, ConcatDataset([ImageFolder(folder), ImageFolder(tmp_path)]))
    with pytest.raises(ConfigError, match="is a path"):
        gmsop.evaluate(model, folder)


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ([(Image.new("RGB", (8, 8)), 3)], "item 0: label 3, of 3 classes"),
        ([(Image.new("RGB", (8, 8)), "cat")], "label 'cat' is no number"),
        ([Image.new("RGB", (8, 8))], r"expected \(image, label\), got a"),
        ([{"picture": 1, "label": 0}], "has picture, label; expected image and label"),
        ([(torch.zeros(3, 8, 8), 0)], "without a transform"),
        ([], "has no images"),
    ],
)
def test_what_is_no_dataset_of_images(model, items, text):
    with pytest.raises(DataError, match=text):
        gmsop.evaluate(model, items)


def test_other_classes_and_transforms_are_refused(model, folder, tmp_path):
    with pytest.raises(DataError, match=r"float32 .*without a transform"):
        gmsop.evaluate(model, ImageFolder(folder, ToTensor()))
    for name in ("cat", "fox", "owl"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "x.png")
    with pytest.raises(DataError, match="a class 'fox', which the model does not know"):
        gmsop.evaluate(model, ImageFolder(tmp_path))
