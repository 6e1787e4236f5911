import pytest
import torch

import gmsop
from gmsop.errors import ConfigError


@pytest.fixture
def model():
    return gmsop.create_model("gm_sop_4_2_tiny", num_classes=7).eval()


def test_timm_contract(model):
    x = torch.randn(2, 3, 64, 64)
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, 16, 16)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    assert torch.equal(model.forward_head(features), model(x))
    assert model.get_classifier().out_features == model.num_classes == 7
    assert model.default_cfg is model.pretrained_cfg
    assert model.get_submodule(model.pretrained_cfg["classifier"]) is model.get_classifier()
    assert model.get_submodule(model.pretrained_cfg["first_conv"]) is model.backbone.stem.conv


def test_reset_classifier(model):
    model.double()
    model.reset_classifier(3)
    x = torch.randn(1, 3, 64, 64, dtype=torch.double)
    assert model(x).shape == (1, 3)
    assert model(x).dtype == torch.double
    model.reset_classifier(0)
    assert model(x).shape == (1, model.head_hidden_size)
    for bad in ((-1,), (5, "avg")):
        with pytest.raises(ConfigError):
            model.reset_classifier(*bad)


def test_routing_is_returned_on_request(model):
    x = torch.randn(2, 3, 64, 64)
    logits, routing = model(x, return_routing=True)
    assert torch.equal(logits, model(x))
    assert routing.dense.shape == (2, 4)
    plain = gmsop.create_model("gap_tiny", num_classes=7).eval()
    assert plain(x, return_routing=True)[1] is None


def test_nothing_is_kept_between_calls(model):
    before = {k: v for k, v in vars(model.pool.gate).items() if not k.startswith("_")}
    model(torch.randn(2, 3, 64, 64))
    assert {k: v for k, v in vars(model.pool.gate).items() if not k.startswith("_")} == before


def test_a_batch_of_one_trains_where_batchnorm_allows():
    model = gmsop.create_model("sr_sop_tiny", num_classes=4).train()
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_channels_last_gives_the_same_numbers(model):
    x = torch.randn(3, 3, 48, 48)
    expected = model(x)
    found = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_model_without_gate_compiles_without_a_graph_break():
    model = gmsop.create_model("parametric_sop_tiny", num_classes=4).eval()
    x = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), model(x), atol=1e-5)


def test_state_dict_names_are_stable(model):
    names = set(model.state_dict())
    assert {"backbone.stem.conv.weight", "backbone.stages.0.0.a.conv.weight", "pool.gate.weight", "norm.weight",
            "pool.components.3.conv2.weight", "pool.gate.predict.1.1.running_var", "fc.bias"} <= names  # fmt: skip
