"""Exported files answer as the model does, also where gmsop is not there, and what cannot be exported is refused."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import gmsop
from gmsop.cli import main
from gmsop.errors import CheckpointError, ConfigError
from gmsop.export import export_model, verify
from gmsop.export.forms import onnx_file, torch_export
from gmsop.export.registry import EXPORT_FORMS

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package)

pytestmark = pytest.mark.xdist_group("export")  # the exported file is made once


def made(name, **options):
    """A model whose gate decides, and whose BatchNorm has seen images."""
    torch.manual_seed(0)
    model = gmsop.create_model(name, num_classes=10, **options)
    if model.gate is not None:
        torch.nn.init.normal_(model.gate.weight, std=0.01)
    with torch.no_grad():
        model.train()(torch.rand(16, 3, 64, 64))
    return model.eval()


@pytest.fixture(scope="module")
def gated():
    return made("gm_sop_4_2_tiny")


@pytest.fixture(scope="module")
def onnx_path(gated, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "gated.onnx"
    done = export_model(gated, path, check_images=40)
    assert done.agreement.same == done.agreement.images == 40
    assert done.agreement.error <= 1e-4
    assert done.made_of == "ONNX, opset 20"
    assert done.routing == "sparse"
    return path


def without_gmsop(code):
    """Run code in a process that cannot import gmsop."""
    block = "import sys\nsys.modules['gmsop'] = None\n"
    done = subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_onnx_without_gmsop(gated, onnx_path):
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    np.save(onnx_path.with_name("x.npy"), images.numpy())
    code = (
        "import json, numpy, onnxruntime\n"
        f"session = onnxruntime.InferenceSession({str(onnx_path)!r})\n"
        f"x = numpy.load({str(onnx_path.with_name('x.npy'))!r})\n"
        "print(json.dumps(session.run(None, {session.get_inputs()[0].name: x})[0].tolist()))"
    )
    with torch.no_grad():
        expected = gated(images).numpy()
    assert np.abs(np.array(without_gmsop(code)) - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_metadata_says_how_images_are_prepared(gated, onnx_path):
    import onnx

    entries = {entry.key: entry.value for entry in onnx.load(onnx_path).metadata_props}
    assert json.loads(entries["mean"]) == pytest.approx(list(gated.pretrained_cfg["mean"]))
    assert json.loads(entries["classes"]) == [str(i) for i in range(10)]
    found = onnx_file.read_description(onnx_path)
    assert found["input"]["shape"] == ["batch", 3, 64, 64]
    assert found["model"]["head"] == "gm_sop"
    assert {node.domain for node in onnx.load(onnx_path).graph.node} == {""}


@pytest.mark.slow
def test_a_program_of_torch_export_without_gmsop(gated, tmp_path):
    """With the preparation inside, and the dense computation of a gate."""
    path = tmp_path / "gated.pt2"
    done = export_model(gated, path, "torch-export", with_preprocess=True, routing="dense", check_images=33)
    assert done.input_dtype == "uint8"
    assert done.input_shape == ("batch", 64, 64, 3)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    code = (
        "import json, numpy, torch\n"
        f"program = torch.export.load({str(path)!r}).module()\n"
        f"x = torch.from_numpy(numpy.load({str(tmp_path / 'x.npy')!r}))\n"
        "print(json.dumps(program(x).tolist()))"
    )
    images = [Image.fromarray(each) for each in pixels]
    probabilities = torch.tensor(without_gmsop(code)).softmax(1)
    for row, expected in zip(probabilities, gmsop.predict(gated, images), strict=True):
        assert int(row.argmax()) == int(expected.classes[0][0])
        assert float(row.max()) == pytest.approx(expected.classes[0][1], abs=1e-5)
    assert torch_export.read_description(path)["input"]["normalised_inside"]


def test_sparse_and_dense_compute_the_same(gated):
    from gmsop.ops.mixture.component_conv import routing_when_exported

    images = torch.rand(4, 3, 64, 64)
    results = []
    for routing in ("sparse", "dense"):
        with routing_when_exported(routing), torch.no_grad():
            results.append(torch.export.export(gated, (images,)).module()(images))
    torch.testing.assert_close(*results)
    with torch.no_grad():
        torch.testing.assert_close(results[0], gated(images), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_any_size_and_opset(tmp_path):
    import onnxruntime

    model = made("sr_sop_tiny")
    path = tmp_path / "m.onnx"
    done = export_model(model, path, dynamic_size=True, opset=18, check_images=8)
    assert done.made_of == "ONNX, opset 18"
    assert done.input_shape == ("batch", 3, "height", "width")
    images = torch.rand(2, 3, 96, 64)
    session = onnxruntime.InferenceSession(path)
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, model(images).numpy(), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_int8_says_what_it_changed(gated, tmp_path, onnx_path):
    import onnx

    found = {}
    for calibrate in (None, gmsop.data.sample_path()):
        path = tmp_path / f"int8-{calibrate is None}.onnx"
        found[calibrate is None] = export_model(
            gated, path, quantize="int8", calibrate=calibrate, check_images=40, check=gmsop.data.sample_path()
        )
        assert path.stat().st_size < onnx_path.stat().st_size
        assert onnx_file.read_description(path)["quantized"] == "int8"
        verify(gated, path, check_images=8)
        kept = {node.op_type for node in onnx.load(path).graph.node if any(".gate." in name for name in node.input)}
        assert kept  # there are such layers, and all are in float32
        assert kept <= {"Conv", "Gemm", "MatMul", "Add"}
    assert "dynamic" in found[True].made_of
    assert "static" in found[False].made_of
    assert all(1e-4 < done.agreement.error < 1 for done in found.values())


def test_errors_are_compared_where_the_classes_are_the_models(gated, tmp_path):
    named = made("gap_tiny")
    named.pretrained_cfg["label_names"] = gmsop.data.PackedDataset(gmsop.data.sample_path(), "val").class_names
    done = export_model(named, tmp_path / "m.pt2", "torch-export", check_images=50)
    assert done.agreement.model_error == done.agreement.file_error
    assert 0 < done.agreement.model_error <= 100


def test_a_file_of_another_model(gated, onnx_path, tmp_path):
    assert verify(gated, onnx_path, check_images=8).agreement.same == 8
    with pytest.raises(ConfigError, match="exported from another model"):
        verify(made("sr_sop_tiny"), onnx_path)
    import onnx

    foreign = onnx.load(onnx_path)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ConfigError, match="not exported by gmsop"):
        verify(gated, tmp_path / "foreign.onnx")
    with pytest.raises(ConfigError, match="no such file"):
        verify(gated, tmp_path / "none.onnx")
    with pytest.raises(CheckpointError, match="an exported file"):
        gmsop.load_model(onnx_path)


def test_a_file_with_other_names_or_preparation(gated, onnx_path):
    other = copy.deepcopy(gated)
    other.pretrained_cfg = {**gated.pretrained_cfg, "label_names": list("jihgfedcba")}
    with pytest.raises(ConfigError, match="other class names than the model's: class 0 '0', here 'j'"):
        verify(other, onnx_path, check_images=5)
    other.pretrained_cfg = {**gated.pretrained_cfg, "mean": (0.9, 0.9, 0.9)}
    with pytest.raises(ConfigError, match=r"other preparation of images .*: mean .*here \[0.9, 0.9, 0.9\]"):
        verify(other, onnx_path, check_images=5)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_damaged_file(gated, onnx_path, tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    path.write_bytes(onnx_path.read_bytes()[:5000])
    with pytest.raises(ConfigError, match="damaged, or no file of"):
        verify(gated, path, check_images=5)


def test_images_without_classes_and_models_that_give_no_numbers(tmp_path):
    model, path = made("gap_tiny"), tmp_path / "m.pt2"
    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (50, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    done = export_model(torch.compile(model), path, "torch-export", check=tmp_path / "photos")
    assert (done.agreement.images, done.agreement.model_error) == (3, None)
    with torch.no_grad():
        model.fc.weight[0, 0] = torch.nan
    with pytest.raises(ConfigError, match="the model itself gives no numbers"):
        export_model(model, tmp_path / "n.pt2", "torch-export", check=tmp_path / "photos")
    with pytest.raises(ConfigError, match="this one takes 1 channels"):
        export_model(gmsop.attach("test_resnet", "gap", 3, in_chans=1), tmp_path / "n.pt2", "torch-export")


def test_one_image_and_half_precision(tmp_path):
    """One image to compare on does not make the batch's size 1; a model kept in half precision is verified, too."""
    model = made("gap_tiny").bfloat16()
    path = tmp_path / "m.pt2"
    assert export_model(model, path, "torch-export", check_images=1).input_shape[0] == "batch"
    assert verify(model, path, check_images=5).agreement.same == 5


def test_a_file_that_answers_otherwise_is_not_written(gated, tmp_path, monkeypatch):
    right = onnx_file.run

    def wrong(path):
        run = right(path)
        return lambda images: run(images) * np.float32(1.001)

    from dataclasses import replace

    monkeypatch.setitem(EXPORT_FORMS._entries, "onnx", replace(EXPORT_FORMS["onnx"], run=wrong))
    with pytest.raises(ConfigError, match="does not answer as the model does"):
        export_model(gated, tmp_path / "m.onnx", check_images=4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"to": "onxn"}, "Nearest: onnx"),
        ({"opset": 11}, "opset 11: PyTorch writes 18"),
        ({"opset": 20, "to": "torch-export"}, "--opset is ONNX's"),
        ({"routing": "both"}, "routing is one of"),
        ({"quantize": "int4"}, "quantize is int8"),
        ({"quantize": "int8", "to": "torch-export"}, "goes with onnx"),
        ({"calibrate": "x"}, "goes with quantize"),
        ({"check": "nowhere"}, "nowhere"),
    ],
    ids=str,
)
def test_what_cannot_be_asked(gated, tmp_path, options, text):
    with pytest.raises(gmsop.GmsopError, match=text):
        export_model(gated, tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_destinations_and_packages(gated, tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_text("old")
    with pytest.raises(ConfigError, match="--overwrite replaces it"):
        export_model(gated, tmp_path / "m.onnx")
    for name, to in (("n.pt2", "onnx"), ("n.aot.pt2", "torch-export"), ("n", "torch-export")):
        with pytest.raises(ConfigError, match=f"a file of the form {to} ends in"):
            export_model(gated, tmp_path / name, to)
    with pytest.raises(ConfigError, match="a folder"):
        export_model(gated, tmp_path)
    with pytest.raises(ConfigError, match="no classifier"):
        export_model(gmsop.create_model("gap_tiny", num_classes=0), tmp_path / "n.onnx")
    with pytest.raises(ConfigError, match="got a Linear"):
        export_model(torch.nn.Linear(2, 2), tmp_path / "n.onnx")
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(ConfigError, match=r"onnx needs onnxruntime: pip install onnxruntime"):
        export_model(gated, tmp_path / "n.onnx")


def test_the_old_exporter_is_refused(gated, tmp_path):
    with pytest.raises(ConfigError, match="old exporter"):
        torch.onnx.export(gated, (torch.rand(1, 3, 64, 64),), tmp_path / "m.onnx", dynamo=False)


def test_the_command(gated, tmp_path, capsys):
    gmsop.save_model(gated, tmp_path / "m.safetensors")
    words = ["export", str(tmp_path / "m.safetensors"), "--to", "torch-export", "--check_images", "8"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == str(tmp_path / "m.pt2")
    assert found["same_class"] == found["images"] == 8
    assert main(words) == 1
    assert "is there already" in capsys.readouterr().err
    assert main([*words[:2], "--verify", str(tmp_path / "m.pt2"), "--check_images", "8"]) == 0
    assert "the same class for 8" in capsys.readouterr().out
