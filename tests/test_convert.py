import numpy as np
import pytest
import torch

from compare import GOLDEN, relative_error
from gmsop.convert import load_matconvnet
from gmsop.convert.matconvnet import load
from gmsop.errors import CheckpointError
from gmsop.models.names import overrides_of
from gmsop.weights.model_file import load_model, save_model
from matconvnet_files import LAYERS, official_shapes, random_params, write_v5, write_v73

OFFICIAL = {
    "ResNet18-GAP": "gap_resnet18",
    "ResNet18-SR-SOP": "sr_sop_resnet18",
    "ResNet18-GM-GAP": "gm_gap_16_8_resnet18",
    "ResNet18-GM-SOP": "gm_sop_16_8_resnet18",
    "WRN-36-2-GM-GAP": "gm_gap_16_8_wrn36_2",
    "WRN-36-2-GM-SOP": "gm_sop_16_8_wrn36_2",
}
GAP = GOLDEN / "checkpoints" / "ResNet18-GAP-net-epoch-1.mat"


def check_arrays(model, params):
    """A few arrays of every kind, each by its own rule, written out."""
    state = model.state_dict()
    double = {k: torch.from_numpy(v.astype(np.float64)) for k, v in params.items()}

    def same(key, expected):
        assert torch.equal(state[key].double(), expected.float().double()), key

    same("backbone.stem.conv.weight", double["conv1_f"].permute(3, 2, 0, 1))
    same("backbone.stem.conv.bias", double["conv1_b"].flatten())
    same("backbone.stages.1.0.b.conv.weight", double["conv3_1b_f"].permute(3, 2, 0, 1))
    same("backbone.stages.3.1.a.bn.weight", double["conv5_2a_bn_w"].flatten())
    same("backbone.stages.2.0.shortcut.conv.weight", double["conv4_1_adapt_conv_f"].permute(3, 2, 0, 1))
    moments = double["conv4_1_adapt_conv_bn_m"]
    same("backbone.stages.2.0.shortcut.bn.running_mean", moments[:, 0])
    same("backbone.stages.2.0.shortcut.bn.running_var", moments[:, 1] ** 2 - 1e-5)
    same("fc.weight", double["prediction_f"][0, 0].T)
    same("fc.bias", double["prediction_b"].flatten())
    if "gating_w" in params:
        same("pool.gate.weight", double["gating_w"].flatten(1).T)
        same("pool.gate.noise_weight", double["gating_noise_w"].flatten(1).T)
        same("norm.running_mean", double["fusion_bn_bn_m"][:, 0].flatten())
    if "CM_3_b_f" in params:
        same("pool.components.2.conv2.weight", double["CM_3_b_f"].permute(3, 2, 0, 1))
    assert sum(v.numel() for v in model.parameters()) == sum(v.size for k, v in params.items() if not k.endswith("_m"))


@pytest.mark.parametrize("write", [write_v5, write_v73])
@pytest.mark.parametrize("official", OFFICIAL)
def test_all_six_official_models(official, write, tmp_path):
    params = random_params(official_shapes(official))
    rate = 0.4 if official == "WRN-36-2-GM-SOP" else 0.2 if "GM" in official else None
    layers = (*LAYERS, ("dropout", {"rate": rate})) if rate else LAYERS
    model = load_matconvnet(write(tmp_path / "net.mat", params, layers=layers))
    assert model.pretrained_cfg["architecture"] == OFFICIAL[official]
    assert model.num_classes == 10
    assert model.drop_rate == (rate or 0)
    assert (model.in_chans, overrides_of(model.spec)) == (3, {})
    assert not model.training
    check_arrays(model, params)
    assert [round(255 * v) for v in model.pretrained_cfg["mean"]] == [120, 110, 100]
    assert [255 * v for v in model.pretrained_cfg["std"]] == pytest.approx([1, 1, 1])
    with torch.no_grad():
        assert torch.isfinite(model(torch.randn(2, 3, 64, 64))).all()


def test_widths_are_read_from_the_arrays(tmp_path):
    """A WRN with narrower gate and components, another N and K, another class count, as the published one may have."""
    n, hidden, dim, gate, noise_features = 6, 384, 96, (320, 64), 64 * 65 // 2
    shapes = official_shapes("WRN-36-2-GM-SOP")
    shapes = {k: v for k, v in shapes.items() if not (k.startswith("CM_") and int(k.split("_")[1]) > n)}
    for k in list(shapes):
        if k.startswith("CM_"):
            shapes[k] = (1, 1, 256, hidden) if "_a_" in k else (1, 1, hidden, dim)
    v = dim * (dim + 1) // 2
    shapes |= {"gating1_f": (1, 1, 256, gate[0]), "gating2_f": (1, 1, *gate), "prediction_f": (1, 1, v, 1000)}
    shapes |= {f"gating1_bn_{s}": (gate[0], 2 if s == "m" else 1) for s in "wbm"}
    shapes |= {f"gating2_bn_{s}": (gate[1], 2 if s == "m" else 1) for s in "wbm"}
    shapes |= {f"fusion_bn_bn_{s}": (v, 2 if s == "m" else 1) for s in "wbm"}
    shapes |= {"gating_w": (noise_features, n), "gating_noise_w": (noise_features, n)}
    params = random_params(shapes, num_classes=7)
    layers = (("Fusion_out", {"topk": 3.0}), ("CM_1_Cov_Sqrtm", {"iterNum": 5.0}), ("dropout", {"rate": 0.4}))
    model = load_matconvnet(write_v5(tmp_path / "net.mat", params, layers=layers))
    assert model.pretrained_cfg["architecture"] == "gm_sop_16_8_wrn36_2"
    assert overrides_of(model.spec) == {
        "reduced_dim": 96, "hidden_dim": 384, "num_components": 6, "gate_dims": (320, 64), "top_k": 3,
        "num_iters": 5,
    }  # fmt: skip
    check_arrays(model, params)
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 7)


def test_a_backbone_of_other_widths_and_depth(tmp_path):
    shapes = {k: v for k, v in official_shapes("ResNet18-SR-SOP").items() if not k.startswith(("conv5", "conv4_2"))}
    shapes["prediction_f"] = (1, 1, 64 * 65 // 2, 10)
    model = load_matconvnet(write_v5(tmp_path / "net.mat", random_params(shapes)))
    assert overrides_of(model.spec) == {"blocks": (2, 2, 1), "widths": (16, 32, 64)}
    assert model.head_hidden_size == 64 * 65 // 2


def test_trailing_axes_of_one_make_no_difference(tmp_path):
    params = random_params(official_shapes("ResNet18-GM-GAP"))
    padded = {k: v.reshape(v.shape + (1,) * (4 - v.ndim)) for k, v in params.items()}
    models = [load_matconvnet(write_v5(tmp_path / "net.mat", p)) for p in (params, padded)]
    for a, b in zip(*(model.state_dict().values() for model in models), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("write", [write_v5, write_v73])
def test_leftovers_gaps_and_shapes_are_named(write, tmp_path):
    params = random_params(official_shapes("ResNet18-GM-GAP"))
    del params["conv3_2b_bn_m"]
    params["mystery_f"] = np.zeros((3, 3), np.float32)
    params["gating2_bn_w"] = np.zeros((127, 1), np.float32)
    with pytest.raises(CheckpointError) as caught:
        load_matconvnet(write(tmp_path / "net.mat", params))
    text = str(caught.value)
    assert "1 missing: conv3_2b_bn_m;" in text
    assert "1 left over: mystery_f" in text
    assert "of a wrong shape or content: gating2_bn_w" in text
    assert "gm_gap_16_8_resnet18" in text


def test_a_missing_component_is_named(tmp_path):
    params = random_params(official_shapes("ResNet18-GM-SOP"))
    del params["CM_5_b_f"], params["CM_7_a_f"]
    with pytest.raises(CheckpointError, match=r"2 missing: CM_5_b_f, CM_7_a_f$"):
        load_matconvnet(write_v5(tmp_path / "net.mat", params))
    del params["CM_1_a_f"], params["CM_1_b_f"]
    with pytest.raises(CheckpointError, match=r"CM_1_a_f"):
        load_matconvnet(write_v5(tmp_path / "net.mat", params))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv1_bn_m", (16, 1)),
        ("conv3_1a_f", (3, 3, 16, 31)),
        ("gating_w", (128, 2, 8)),
        ("prediction_f", (2, 2, 512, 10)),
        ("conv1_f", (3, 3, 3, 16, 2)),
        ("conv2_1a_bn_w", (15, 1)),
    ],
)
def test_arrays_of_a_wrong_shape(name, shape, tmp_path):
    params = random_params(official_shapes("ResNet18-GM-GAP"))
    params[name] = np.ones(shape, np.float32)
    with pytest.raises(CheckpointError, match=r"net\.mat: "):
        load_matconvnet(write_v5(tmp_path / "net.mat", params))


@pytest.mark.parametrize("kept", [0, 100, 5000, 400_000])
def test_truncated_v5(kept, tmp_path):
    path = tmp_path / "net.mat"
    path.write_bytes(GAP.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"net\.mat"):
        load_matconvnet(path)


def test_arrays_that_are_not_finite(tmp_path):
    params = random_params(official_shapes("ResNet18-GAP"))
    params["conv3_1a_f"][0, 0, 0, 0] = np.nan
    with pytest.raises(CheckpointError, match=r"conv3_1a_f \(holds NaN or infinity\)"):
        load_matconvnet(write_v5(tmp_path / "net.mat", params))


@pytest.mark.parametrize("layers", [(("a", {"topk": np.inf}),), (("a", {"iterNum": "many"}),), (("a", {"rate": 2.0}),)])
def test_settings_that_make_no_sense(layers, tmp_path):
    params = random_params(official_shapes("ResNet18-GM-SOP"))
    with pytest.raises(CheckpointError, match=r"net\.mat: "):
        load_matconvnet(write_v5(tmp_path / "net.mat", params, layers=layers))


def test_a_single_layer_is_read_too(tmp_path):
    params = random_params(official_shapes("ResNet18-GM-GAP"))
    model = load_matconvnet(write_v5(tmp_path / "net.mat", params, layers=(("gating", {"topk": 5.0}),)))
    assert model.pool.gate.top_k == 5


def test_truncated_v73(tmp_path):
    path = write_v73(tmp_path / "net.mat", random_params(official_shapes("ResNet18-GAP")))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        load_matconvnet(path)


def test_other_files_are_refused(tmp_path):
    import scipy.io

    with pytest.raises(CheckpointError, match="no such file"):
        load_matconvnet(tmp_path / "none.mat")
    scipy.io.savemat(tmp_path / "a.mat", {"images": np.zeros(3)})
    with pytest.raises(CheckpointError, match="no variable 'net'; the file holds images"):
        load_matconvnet(tmp_path / "a.mat")
    scipy.io.savemat(tmp_path / "b.mat", {"net": np.zeros(3)})
    with pytest.raises(CheckpointError, match="saveobj"):
        load_matconvnet(tmp_path / "b.mat")
    with pytest.raises(CheckpointError, match="not a GM-SOP network: no parameter conv1_f"):
        load_matconvnet(write_v5(tmp_path / "c.mat", {"fc6_f": np.zeros((1, 1, 3, 4), np.float32)}))


def test_published_files_are_recognised_by_their_md5(monkeypatch):
    model = load_matconvnet(GAP)
    assert model.pretrained_cfg["source"]["published"] is None
    monkeypatch.setitem(load.MATCONVNET_MD5, model.pretrained_cfg["source"]["md5"], "gap_resnet18")
    assert load_matconvnet(GAP).pretrained_cfg["source"]["published"] == "gap_resnet18"


def test_a_converted_model_survives_the_disk(tmp_path):
    params = random_params(official_shapes("WRN-36-2-GM-GAP"))
    model = load_matconvnet(write_v5(tmp_path / "net.mat", params))
    save_model(model, tmp_path / "net.safetensors")
    again = load_model(tmp_path / "net.safetensors")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), again(x))
    assert again.pretrained_cfg["mean"] == model.pretrained_cfg["mean"]
    assert again.pretrained_cfg["source"] == model.pretrained_cfg["source"]


def test_double_precision_keeps_the_variances(tmp_path):
    params = random_params(official_shapes("ResNet18-GAP"))
    model = load_matconvnet(write_v5(tmp_path / "net.mat", params), torch.float64)
    sigma = torch.from_numpy(params["conv1_bn_m"][:, 1].astype(float))
    assert relative_error(model.backbone.stem.bn.running_var, sigma**2 - 1e-5) < 1e-15
