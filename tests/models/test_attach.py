"""Any head on any backbone."""

import warnings

import pytest
import timm
import torch
from families import FAMILIES, QUICK, REAL
from torch import nn

import gmsop
from compare import relative_error
from gmsop.backbones.timm_models import TimmBackbone
from gmsop.errors import CheckpointError, ConfigError, UnknownNameError
from gmsop.models import attach
from gmsop.ops.second_order import reference

HEADS = gmsop.list_heads()
SMALL = {"gm_gap": {"num_components": 4}, "gm_sop": {"num_components": 4, "hidden_dim": 16, "reduced_dim": 8}}
THERE = set(timm.list_models())
LEFT_OUT = {"sequencer2d_s"}  # on the meta device its LSTMs take twenty seconds; `benchmarks/breadth.py` has it


def some(values, quick):
    """Mark all but `quick` of them as slow."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize("family", some([f for f in FAMILIES if FAMILIES[f] in THERE - LEFT_OUT], QUICK))
def test_every_family_takes_a_head(family):
    """Only shapes are computed: on the meta device a network takes neither memory nor time."""
    name = FAMILIES[family]
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = attach(name, "sr_sop", 5).eval()  # which sends an image through the backbone
        features = torch.empty(2, model.num_features, 5, 5)
    assert model.fc(model.pool(features)).shape == (2, 5)


@pytest.mark.parametrize("number", some(range(len(REAL)), range(len(HEADS) + 1)))
def test_forward_backward_save_and_load(number, tmp_path):
    """Each backbone with one head, all heads in turn."""
    name, head = REAL[number], HEADS[number % len(HEADS)]
    if name not in THERE:
        pytest.skip(f"this version of timm has no {name}")
    model = attach(name, head, 5, **SMALL.get(head, {}))
    images = torch.randn(2, *model.pretrained_cfg["input_size"])
    model.train()(images).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.backbone.stem_parameters())
    model.eval()
    model.pretrained_cfg["label_names"] = list("abcde")
    with torch.no_grad():
        expected = model(images)
        gmsop.save_model(model, tmp_path / "m.safetensors")
        for again in (gmsop.load_model(tmp_path / "m.safetensors"), _through_timm(model, tmp_path / "hub")):
            assert torch.equal(again(images), expected)
            assert again.spec == model.spec
            assert list(again.pretrained_cfg["label_names"]) == list("abcde")


def _through_timm(model, folder):
    timm.models.save_for_hf(model, str(folder), safe_serialization=True)
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


@pytest.mark.slow
def test_a_model_that_keeps_tensors_from_call_to_call():
    """Shapes are found out without computing numbers, which must leave no tensor without numbers behind."""
    assert attach("coat_tiny", "gap", 2).eval()(torch.randn(1, 3, 224, 224)).isfinite().all()


def test_the_last_level_has_the_norm_that_stands_in_the_models_head():
    model = attach("davit_tiny", "gap", 2).eval()
    x = torch.randn(1, 3, 64, 64)
    last, levels = model.forward_intermediates(x)
    assert torch.equal(last, model.forward_features(x))
    assert [level.shape[1] for level in levels] == [info["num_chs"] for info in model.feature_info]


def test_the_head_sees_what_the_backbone_gives():
    model = attach("test_resnet", "sr_sop", 3).double().eval()
    x = torch.randn(2, 3, 96, 96, dtype=torch.double)
    plain = timm.create_model("test_resnet", num_classes=0, global_pool="").double().eval()
    plain.load_state_dict(model.backbone.model.state_dict())
    features = plain(x)
    vectors = reference.triu_vectorize(reference.newton_schulz_sqrt(reference.covariance_pool(features.flatten(2))))
    assert relative_error(model(x), model.fc(vectors)) < 1e-10


@pytest.mark.parametrize("class_token", ["drop", "concat"])
def test_tokens(class_token):
    model = attach("test_vit", "sr_sop", 3, class_token=class_token).double().eval()
    x = torch.randn(2, 3, 160, 160, dtype=torch.double)
    tokens = model.backbone.model.forward_features(x)
    patches = tokens[:, 1:].transpose(1, 2)
    vectors = reference.triu_vectorize(reference.newton_schulz_sqrt(reference.covariance_pool(patches)))
    if class_token == "concat":
        vectors = torch.cat([vectors, tokens[:, 0]], 1)
    assert relative_error(model.forward_head(tokens, pre_logits=True), vectors) < 1e-10
    assert model.head_hidden_size == vectors.shape[1]
    assert relative_error(model(x), model.fc(vectors)) < 1e-10


def test_channels_last_maps():
    model = attach("test_mambaout", "gap", 3).eval()
    x = torch.randn(2, 3, 96, 96)
    features = model.forward_features(x)
    assert (model.output_fmt, features.shape[-1]) == ("NHWC", model.num_features)
    assert torch.allclose(model.forward_head(features, pre_logits=True), features.mean((1, 2)), atol=1e-6)


def test_resolution_and_widths():
    coarse, fine = (attach("resnet18", "sr_sop", 3, output_stride=s) for s in (None, 16))
    assert [m.pretrained_cfg["pool_size"] for m in (coarse, fine)] == [(7, 7), (14, 14)]
    assert coarse.spec.head_options["reduced_dim"] == 128
    assert attach("resnet18", "sr_sop", 3, reduced_dim=64).head_hidden_size == 64 * 65 // 2
    with torch.device("meta"):
        wide = attach("resnet50", "gm_sop", 3).spec.head_options
    assert (wide["hidden_dim"], wide["reduced_dim"], wide["gate_dims"], wide["top_k"]) == (512, 128, (512, 128), 8)
    for components, chosen in ((1, 1), (2, 2), (3, 2), (4, 2), (6, 3), (16, 8), (64, 8)):
        with torch.device("meta"):
            assert attach("test_resnet", "gm_gap", 3, num_components=components).gate.top_k == chosen
            assert gmsop.nn.GatedMixture.second_order(8, num_components=components).gate.top_k == chosen


def test_a_model_that_is_there_keeps_its_weights():
    own = timm.create_model("test_resnet", num_classes=7)
    weight = own.layer4[0].conv1.weight
    model = attach(own, "gm_gap", 3, num_components=4)
    assert model.backbone.model.layer4[0].conv1.weight is weight
    assert model.spec.backbone == "timm"


def test_other_channels_and_arguments(tmp_path):
    model = attach("test_vit", "gap", 3, in_chans=5, model_args={"img_size": 96, "drop_path_rate": 0.2}).eval()
    assert model.pretrained_cfg["input_size"] == (5, 96, 96)
    assert len(model.pretrained_cfg["mean"]) == 5
    x = torch.randn(1, 5, 96, 96)
    gmsop.save_model(model, tmp_path / "m.safetensors")
    assert torch.equal(gmsop.load_model(tmp_path / "m.safetensors")(x), model(x))


def test_a_folder_of_timms_is_a_backbone(tmp_path):
    trained = timm.create_model("test_resnet", num_classes=4).eval()
    trained.pretrained_cfg.update(mean=(0.1, 0.2, 0.3))
    timm.models.save_for_hf(trained, str(tmp_path / "net"), safe_serialization=True)
    model = attach(f"local-dir:{tmp_path / 'net'}", "sr_sop", 2, pretrained=True).eval()
    x = torch.randn(1, 3, 96, 96)
    assert torch.equal(model.forward_features(x), trained.forward_features(x))
    assert model.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)
    gmsop.save_model(model, tmp_path / "m.safetensors")
    (tmp_path / "net").rename(tmp_path / "gone")
    again = gmsop.load_model(tmp_path / "m.safetensors")
    assert torch.equal(again(x), model(x))
    assert again.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)


class Own(nn.Module):
    """Somebody's network, with features in the layout that is asked for."""

    def __init__(self, layout: str = "NCHW", width: int = 6) -> None:
        super().__init__()
        self.conv, self.layout = nn.Conv2d(3, width, 3, 4), layout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if self.layout == "NHWC":
            return x.permute(0, 2, 3, 1)
        return x if self.layout == "NCHW" else x.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NLC"])
def test_a_module_of_ones_own(layout, tmp_path):
    own, x = Own(layout), torch.randn(2, 3, 32, 32)
    model = attach(own, "sr_sop", 3, layout=layout, image_size=32).eval()
    vectors = reference.triu_vectorize(reference.newton_schulz_sqrt(reference.covariance_pool(own.conv(x).flatten(2))))
    assert relative_error(model(x), model.fc(vectors)) < 1e-4
    gmsop.save_model(model, tmp_path / "m.safetensors")
    with pytest.raises(
        CheckpointError, match=r"a head that sat on a module .*Own with 168 parameters.*backbone=module"
    ):
        gmsop.load_model(tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="the head sat on another module: Own with 168"):
        gmsop.load_model(tmp_path / "m.safetensors", backbone=Own(layout, 7))
    again = gmsop.load_model(tmp_path / "m.safetensors", backbone=own)
    assert torch.equal(again(x), model(x))
    named = gmsop.create_model("gap_tiny", 3)
    gmsop.save_model(named, tmp_path / "named.safetensors")
    with pytest.raises(CheckpointError, match="leave out backbone"):
        gmsop.load_model(tmp_path / "named.safetensors", backbone=own)
    with pytest.raises(ConfigError, match="makes no folder for timm"):
        model.save_pretrained(tmp_path / "x")


@pytest.mark.parametrize(
    "name", some(["resnet18", "mobilenet_v3_small", "vit_b_32", "convnext_tiny", "swin_t"], {"resnet18", "swin_t"})
)
def test_torchvisions_models(name):
    torchvision = pytest.importorskip("torchvision")
    with torch.no_grad():
        net = torchvision.models.get_model(name, weights=None).eval()
        images = torch.randn(1, 3, 224, 224)
        model = attach(net, "gap", 3).eval()
        assert model(images).shape == (1, 3)
        if name == "resnet18":
            layers = [net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4]
            assert torch.allclose(model.forward_features(images), nn.Sequential(*layers)(images), atol=1e-5)
    assert model.backbone.map_size(224, 224) == ((49, 1) if name == "vit_b_32" else (7, 7))


def test_a_model_of_torchvisions_that_finds_objects():
    torchvision = pytest.importorskip("torchvision")
    net = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    with pytest.raises(ConfigError, match=r"SSD of torchvision is no backbone .* looked for .* found Trace"):
        attach(net, "gap")
    assert net.training


def test_a_head_of_ones_own():
    class Largest(nn.Module):
        out_features = 96

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.amax((2, 3))

    model = attach("test_resnet", Largest(), 3).eval()
    assert model(torch.randn(2, 3, 96, 96)).shape == (2, 3)
    with pytest.raises(ConfigError, match="with a head or backbone of one's own"):
        gmsop.save_model(model, "x.safetensors")


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: attach("resnet59", "gap"), UnknownNameError, "unknown timm model 'resnet59'. Nearest: resnet50"),
        (lambda: attach("resnet18.nosuch", "gap"), ConfigError, "Invalid pretrained tag"),
        (lambda: attach("resnet18", "gip"), UnknownNameError, "unknown head 'gip'. Nearest: gap"),
        (lambda: attach("resnet18", "gap", colour=3), ConfigError, "no option 'colour'; there are class_token"),
        (lambda: attach("resnet18", "gm_sop", top_k=3, num_components=2), ConfigError, "top_k must be between 1 and"),
        (lambda: attach("resnet18", "sr_sop", reduced_dim=0), ConfigError, "reduced_dim must be a positive integer"),
        (lambda: attach("resnet18", "sr_sop", output_stride=7), ConfigError, "output_stride must be one of 8, 16, 32"),
        (lambda: attach("test_vit", "gap", output_stride=16), ConfigError, "unexpected keyword argument 'output_str"),
        (lambda: attach("resnet18", "gap", class_token="concat"), ConfigError, "has no class token"),
        (lambda: attach("resnet18", "gap", in_chans=0), ConfigError, "in_chans must be a positive integer"),
        (lambda: attach("local-dir:/nowhere", "gap"), ConfigError, "cannot be had.*config.json"),
        (lambda: attach(nn.Linear(3, 3), "gap"), ConfigError, r"Linear does not take images \(2, 3, 224, 224\)"),
        (lambda: attach(Own(), "gap", pretrained=True), ConfigError, "pretrained is for a backbone by its name"),
        (lambda: attach(Own("NLC"), "gap", image_size=32), ConfigError, "tokens are layout='NLC'"),
        (lambda: attach(Own(), "gap", layout="NLC", image_size=32), ConfigError, r"looked for features \(B, N, C\)"),
        (lambda: attach(Own(), "gap", image_size=4), ConfigError, "of more than one position, found shape"),
        (lambda: attach(Own(), "gap", class_token="concat"), ConfigError, "concat needs num_prefix_tokens"),
        (lambda: attach(Own(), "gap", colour=1), ConfigError, "no option 'colour'"),
        (lambda: attach(nn.Sequential(Own(), nn.Flatten()), "gap"), ConfigError, "pooled already, or logits"),
        (lambda: attach("resnet18", "sr_sop")(torch.randn(2, 3, 32, 32)), ConfigError, "1 position.*larger images"),
        (lambda: TimmBackbone("resnet18", in_chans=3, model_args={"colour": 1}), ConfigError, "colour"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_weights_that_cannot_be_had_are_one_clear_line(monkeypatch):
    def offline(*args, **options):
        raise OSError("Name or service not known\nand much more")

    monkeypatch.setattr("timm.models._builder.load_pretrained", offline)
    with pytest.raises(ConfigError, match=r"^the weights of test_resnet cannot be had: OSError: Name or") as caught:
        attach("test_resnet", "gap", pretrained=True)
    assert "local-dir:FOLDER" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("head", HEADS)
def test_a_module_in_another_precision(head, dtype):
    own = timm.create_model("test_resnet").to(dtype)
    model = attach(torch.nn.DataParallel(own), head, 3, **SMALL.get(head, {})).eval()
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model(torch.randn(2, 3, 64, 64, dtype=dtype)).dtype == dtype


def test_a_layout_that_is_probably_another():
    class Last(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).permute(0, 2, 3, 1)

    with pytest.raises(ConfigError, match="Say layout='NHWC'"):
        attach(Last(3, 8, 2, 2), "sr_sop", 3)
    assert attach(Last(3, 8, 2, 2), "sr_sop", 3, layout="NHWC").num_features == 8
