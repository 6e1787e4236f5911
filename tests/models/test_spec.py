"""A model's description: what it holds, and that nothing which changes a model's answers is missing from it."""

import json
from dataclasses import FrozenInstanceError, replace
from typing import Literal

import pytest
import torch

import gmsop
from gmsop.errors import ConfigError, GmsopError
from gmsop.heads import HEADS, register_head
from gmsop.models import ModelSpec, build_spec
from gmsop.models.names import named_specs, overrides_of
from gmsop.models.spec import default_spec
from gmsop.nn import ISqrtCovPool


@pytest.mark.parametrize("name", gmsop.list_models())
def test_a_description_survives_json_and_builds_the_model_again(name):
    with torch.device("meta"):
        model = gmsop.create_model(name, 7, in_chans=2)
        again = build_spec(ModelSpec.from_dict(json.loads(json.dumps(model.spec.to_dict()))))
    assert again.spec == model.spec
    assert str(again) == str(model)
    shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (model, again)]
    assert shapes[0] == shapes[1]
    own = [{k: v for k, v in each.pretrained_cfg.items() if k != "num_classes"} for each in (model, again)]
    assert own[0] == own[1]


def test_names_are_heads_times_backbones():
    assert set(named_specs()) == {
        f"{head}_{backbone}"
        for backbone in ("resnet18", "resnet50", "wrn36_2")
        for head in ("gap", "gap_512", "gap_8256", "sr_sop", "parametric_sop", "gm_gap_16_8", "gm_sop_16_8")
    } | {f"{head}_tiny" for head in ("gap", "sr_sop", "parametric_sop", "gm_gap_4_2", "gm_sop_4_2")}


def test_a_description_is_not_changed_but_made_anew():
    spec = named_specs()["gm_sop_16_8_resnet18"]
    with pytest.raises(FrozenInstanceError):
        spec.num_classes = 3
    other = spec.with_options(top_k=3, widths=[8, 8, 8, 8])
    assert overrides_of(other) == {"top_k": 3, "widths": (8, 8, 8, 8)}
    assert spec.options["top_k"] == 8
    for bad in ({"colour": 1}, {"top_k": "x"}, {"gate_dims": []}):
        with pytest.raises(ConfigError):
            spec.with_options(**bad)
    with pytest.raises(ConfigError, match=r"a sr_sop model on tiny has no option 'top_k'; it has blocks"):
        default_spec("tiny", "sr_sop", top_k=3)


def test_a_name_stands_for_one_head_and_backbone():
    with pytest.raises(GmsopError, match="gap_tiny is a gap model on tiny, not sr_sop on tiny"):
        build_spec(replace(default_spec("tiny", "sr_sop"), name="gap_tiny"))


def test_a_new_classifier_is_in_the_description():
    model = gmsop.create_model("gap_tiny", 5)
    model.reset_classifier(3)
    assert model.spec.num_classes == 3


class ScaledPool(ISqrtCovPool):
    """Someone's pooling, with options of its own."""

    def __init__(self, in_channels: int, scale: float = 1.0, root: Literal["plain", "log"] = "plain") -> None:
        super().__init__(in_channels)
        self.scale, self.root = scale, root

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        vectors = self.scale * super().forward(x)
        return vectors.abs().log1p() if self.root == "log" else vectors


@pytest.fixture
def scaled_head(monkeypatch):
    """A head that somebody registers, here for one test."""
    HEADS.names()
    monkeypatch.setattr(HEADS, "_entries", dict(HEADS._entries))
    register_head("scaled_sop", ScaledPool, help="scaled", keep_resolution=True)


def test_the_options_of_a_new_head_are_checked_saved_and_loaded(scaled_head, tmp_path):
    model = build_spec(default_spec("tiny", "scaled_sop", scale=2.5, root="log")).eval()
    model.spec = replace(model.spec, num_classes=1000)
    gmsop.save_model(model, tmp_path / "m.safetensors")
    again = gmsop.load_model(tmp_path / "m.safetensors")
    x = torch.randn(2, 3, 32, 32)
    assert (again.pool.scale, again.pool.root) == (2.5, "log")
    assert torch.equal(again(x), model(x))
    assert (again.pretrained_cfg["architecture"], again.spec.name) == ("gmsop", "scaled_sop_tiny")
    for bad, words in (
        ({"scale": "much"}, "a number"),
        ({"root": "cube"}, "one of plain, log"),
        ({"scael": 1}, "scael"),
    ):
        with pytest.raises(ConfigError, match=words):
            default_spec("tiny", "scaled_sop", **bad)


def test_a_setting_that_no_description_holds_is_not_lost_in_silence(tmp_path, monkeypatch):
    """A new attribute that changes the answers, as whoever extends a module adds one."""
    forward = ISqrtCovPool.forward
    monkeypatch.setattr(ISqrtCovPool, "forward", lambda pool, x: getattr(pool, "scale", 1.0) * forward(pool, x))
    for name, place in (("sr_sop_tiny", "pool"), ("gm_sop_4_2_tiny", "pool.components.2.pool")):
        model = gmsop.create_model(name, 3).eval()
        gmsop.save_model(model, tmp_path / "m.safetensors")
        model.get_submodule(place).scale = 2.8
        with pytest.raises(ConfigError, match=rf"any more: {place}\.scale is 2\.8"):
            gmsop.save_model(model, tmp_path / "m.safetensors")


@pytest.mark.parametrize("change", ["class", "activation", "padding"])
def test_another_module_of_the_same_weights_is_not_lost_in_silence(tmp_path, change):
    model = gmsop.create_model("gm_gap_4_2_tiny", 3)
    if change == "class":
        model.pool.components[0].__class__ = type("Other", (type(model.pool.components[0]),), {})
    elif change == "activation":
        model.pool.gate.predict[0][2] = torch.nn.GELU()
    else:
        model.backbone.stem.conv.padding = (2, 2)
    with pytest.raises(ConfigError, match="as it was built any more"):
        gmsop.save_model(model, tmp_path / "m.safetensors")


def test_what_changes_no_answer_may_differ(tmp_path):
    model = gmsop.create_model("gm_gap_4_2_tiny", 3).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.3
    gmsop.save_model(torch.nn.SyncBatchNorm.convert_sync_batchnorm(model), tmp_path / "m.safetensors")
    assert gmsop.load_model(tmp_path / "m.safetensors").spec == model.spec
