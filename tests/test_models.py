import subprocess
import sys

import pytest
import timm
import torch

import gmsop
from gmsop.errors import ConfigError, GmsopError, UnknownNameError
from gmsop.models.cost import card
from gmsop.models.published import PARAMETER_NOTES, RESULTS

# Counted from the authors' builders: learnable parameters, without BatchNorm's moments.
BUILDERS = {
    "gap_resnet18": 829_192,
    "sr_sop_resnet18": 8_957_192,
    "gm_gap_16_8_resnet18": 2_333_192,
    "gm_sop_16_8_resnet18": 10_352_776,
    "gm_gap_16_8_wrn36_2": 8_687_496,
    "gm_sop_16_8_wrn36_2": 17_809_160,
}


def parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in gmsop.create_model(name).parameters())


@pytest.mark.parametrize("name", BUILDERS)
def test_parameters_equal_the_authors_builders(name):
    assert parameters(name) == BUILDERS[name]


@pytest.mark.parametrize("result", [r for r in RESULTS if r.params_millions], ids=lambda r: f"{r.model}")
def test_parameters_round_to_the_published_ones_or_a_note_says_why(result):
    agrees = round(parameters(result.model) / 1e6, 1) == result.params_millions
    assert agrees != (result.model in PARAMETER_NOTES)


def test_every_row_and_every_combination_has_a_model():
    heads = ("gap", "gap_512", "gap_8256", "sr_sop", "parametric_sop", "gm_gap_16_8", "gm_sop_16_8")
    combinations = {f"{head}_{net}" for head in heads for net in ("resnet18", "resnet50", "wrn36_2")}
    assert combinations <= set(gmsop.list_models())
    assert {r.model for r in RESULTS} <= combinations
    assert all(name.endswith("_wrn36_2") for name in gmsop.list_models("*wrn*"))


@pytest.mark.parametrize("name", gmsop.list_models())
def test_every_model_runs(name):
    model = timm.create_model(name, num_classes=5, in_chans=4).eval()
    x = torch.randn(1, 4, 32, 32)
    with torch.no_grad():
        assert model(x).shape == (1, 5)
    assert model.pretrained_cfg["architecture"] == name


def test_representation_sizes():
    sizes = {"gap_resnet18": 128, "gap_512_resnet18": 512, "gap_8256_resnet50": 8256, "sr_sop_wrn36_2": 8256,
             "gm_gap_16_8_wrn36_2": 512, "gm_sop_16_8_resnet18": 8256}  # fmt: skip
    assert {name: card(name).representation for name in sizes} == sizes


def test_operations_are_those_of_the_design():
    """The reference counts a second-order unit as 33.5 million multiply-adds: here 8 components and the gate."""
    extra = card("gm_sop_16_8_resnet18").gflops - card("sr_sop_resnet18").gflops
    conv, pool = 2 * 256 * 128 * 256, 128 * 128 * 256 + 6 * 128**3
    linear = 8256 * 16  # the gate's scores
    mixing = 8 * 8256
    expected = 2 * (9 * (conv + pool) - pool + linear + mixing) / 1e9
    assert extra == pytest.approx(expected, rel=1e-6)


def test_operations_do_not_depend_on_the_device():
    from torch.utils.flop_counter import FlopCounterMode

    model = gmsop.create_model("gm_sop_4_2_tiny").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    assert counter.get_total_flops() / 1e9 == pytest.approx(card("gm_sop_4_2_tiny").gflops)


def test_overrides():
    model = gmsop.create_model("gm_sop_16_8_resnet18", 5, num_components=3, top_k=2, reduced_dim=32, num_iters=5,
                               drop_rate=0.5)  # fmt: skip
    assert len(model.pool.components) == 3
    assert (model.pool.gate.top_k, model.head_hidden_size, model.drop.p) == (2, 32 * 33 // 2, 0.5)
    assert model.pool.components[0].pool.num_iters == 5


def test_unknown_name_lists_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'gm_sop_16_8_resnet19'.*Nearest: gm_sop_16_8_resnet18"):
        gmsop.create_model("gm_sop_16_8_resnet19")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"top_k": 17}, "top_k must be between 1 and num_components = 16, got 17"),
        ({"top_k": 0}, "top_k must be a positive integer"),
        ({"num_components": 0}, "num_components"),
        ({"reduced_dim": -3}, "reduced_dim"),
        ({"num_iters": 0}, "num_iters"),
        ({"drop_rate": 1.5}, "drop_rate"),
        ({"gate_dims": ()}, "at least one"),
        ({"gate_dims": 5}, "gate_dims must be a list"),
        ({"reduced_dim": True}, "reduced_dim must be a positive integer"),
        ({"drop_rate": "x"}, "drop_rate must be at least 0"),
        ({"widths": (16, 32)}, "must be of equal length"),
        ({"checkpoint_path": "/etc/passwd"}, "no model has an option 'checkpoint_path'"),
        ({"in_chans": 0}, "in_chans"),
        ({"num_classes": -1}, "num_classes"),
        ({"colour": "red"}, "no model has an option 'colour'; there are balance_weight, blocks"),
    ],
)
def test_values_that_cannot_work(overrides, words):
    with pytest.raises(ConfigError, match=words):
        gmsop.create_model("gm_sop_16_8_resnet18", **overrides)


def test_pretrained_weights_are_not_promised():
    with pytest.raises(GmsopError, match="gmsop convert"):
        timm.create_model("gap_tiny", pretrained=True)


@pytest.mark.slow
def test_timm_finds_the_models_after_the_import():
    code = "import timm, gmsop; print(len(timm.list_models('gm_sop*')), timm.create_model('gap_tiny').num_classes)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "1000"]


@pytest.mark.parametrize("name", ["gap_tiny", "sr_sop_tiny"])
def test_torchvisions_feature_extraction(name):
    feature_extraction = pytest.importorskip("torchvision.models.feature_extraction")
    model = timm.create_model(name, num_classes=3).eval()
    images = torch.randn(2, 3, 64, 64)
    found = feature_extraction.create_feature_extractor(model, ["backbone.stages"])(images)["backbone.stages"]
    assert torch.equal(found, model.forward_features(images))
