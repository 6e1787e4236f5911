"""timm's contract, asked of named models and of heads on other backbones; timm's own tests are `make test-timm`."""

import pytest
import timm
import torch
from timm.models import FeatureInfo, get_notrace_functions, get_notrace_modules
from timm.optim import create_optimizer_v2, param_groups_layer_decay

import gmsop
from compare import relative_error
from gmsop.errors import ConfigError
from gmsop.models import attach

NAMED = ["gap_tiny", "sr_sop_tiny", "parametric_sop_tiny", "gm_gap_4_2_tiny", "gm_sop_4_2_tiny", "gm_sop_16_8_wrn36_2"]
ATTACHED = ["test_resnet", "test_vit", "test_mambaout", "test_convnext"]


def model_of(name: str) -> gmsop.models.PooledClassifier:
    """A named model, or a small mixture on a backbone of timm's."""
    if name in NAMED:
        return gmsop.create_model(name, 5)
    return attach(name, "gm_sop", 5, num_components=4, hidden_dim=16, reduced_dim=8)


def images_for(model: torch.nn.Module, count: int = 2) -> torch.Tensor:
    return torch.randn(count, *model.pretrained_cfg["input_size"])


@pytest.mark.parametrize("name", NAMED + ATTACHED)
def test_features_head_and_classifier(name):
    model = model_of(name).eval()
    images = images_for(model)
    features = model.forward_features(images)
    axis = 1 if model.output_fmt == "NCHW" else -1
    assert features.shape[axis] == model.num_features
    if model.pretrained_cfg["pool_size"]:
        spatial = features.shape[2:] if axis == 1 else features.shape[1:3]
        assert tuple(spatial) == tuple(model.pretrained_cfg["pool_size"])
    representation = model.forward_head(features, pre_logits=True)
    assert representation.shape == (2, model.head_hidden_size)
    assert torch.equal(model.forward_head(features), model(images))
    state = model.state_dict()
    cfg = model.default_cfg
    names = [cfg["first_conv"]] if isinstance(cfg["first_conv"], str) else list(cfg["first_conv"])
    assert {f"{each}.weight" for each in [*names, cfg["classifier"]]} <= set(state)
    model.reset_classifier(0)
    assert (model.num_classes, model(images).shape) == (0, representation.shape)
    model.reset_classifier(0, "")
    assert torch.equal(model(images), features)
    model.reset_classifier(4)
    assert model(images).shape == (2, 4)
    for wrong in ((5, "avg"), (5, ""), (-1, None)):
        with pytest.raises(ConfigError, match="reset_classifier"):
            model.reset_classifier(*wrong)


@pytest.mark.parametrize("name", ["gap_tiny", "gm_sop_4_2_tiny", *ATTACHED])
def test_intermediates(name):
    model = model_of(name).eval()
    images = images_for(model)
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    last, levels = model.forward_intermediates(images, output_fmt="NCHW")
    if name not in ("test_vit", "test_mambaout", "test_convnext"):  # whose head has a norm of its own, or other axes
        assert torch.allclose(last, model.forward_features(images), atol=1e-6)
    assert [level.shape[1] for level in levels] == info.channels()
    for level, reduction in zip(levels, info.reduction(), strict=True):
        assert abs(level.shape[2] - images.shape[2] / reduction) <= 1
    assert torch.equal(model.forward_intermediates(images, indices=[-1], intermediates_only=True)[0], levels[-1])


def test_levels_that_are_not_there():
    model = gmsop.create_model("gap_tiny", 3)
    for wrong in ([4], [-5], 0, 5, []):
        with pytest.raises(ConfigError, match="there are 4 levels of features, asked for were"):
            model.forward_intermediates(torch.randn(1, 3, 32, 32), indices=wrong)
    with pytest.raises(ConfigError, match="features are NCHW, not NLC"):
        model.forward_intermediates(torch.randn(1, 3, 32, 32), output_fmt="NLC")


@pytest.mark.parametrize("name", NAMED)
def test_features_only(name):
    model = timm.create_model(name, features_only=True).eval()
    levels = model(torch.randn(2, 3, 64, 64))
    assert [level.shape[1] for level in levels] == model.feature_info.channels()
    some = timm.create_model(name, features_only=True, out_indices=(1, 2))
    assert [level.shape[1] for level in some(torch.randn(2, 3, 64, 64))] == model.feature_info.channels()[1:3]
    assert not [key for key in some.state_dict() if "pool" in key or "fc" in key or "stages.2" in key]


def test_arguments_of_timms_factory():
    images = torch.randn(1, 3, 64, 64)
    assert timm.create_model("sr_sop_tiny", num_classes=0, global_pool="")(images).shape == (1, 64, 16, 16)
    assert timm.create_model("sr_sop_tiny", drop_path_rate=0.0, img_size=96).pretrained_cfg["input_size"] == (3, 96, 96)
    with pytest.raises(ConfigError, match="no stochastic depth"):
        timm.create_model("sr_sop_tiny", drop_path_rate=0.1)
    with pytest.raises(ConfigError, match="cannot become 'avg'"):
        timm.create_model("sr_sop_tiny", global_pool="avg")


@pytest.mark.parametrize("name", ["gm_sop_4_2_tiny", "test_resnet", "test_vit"])
def test_gradient_checkpointing_changes_nothing(name):
    model = model_of(name).double().train()
    for module in model.modules():  # whose statistics would be counted twice, and whose draws would differ
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d | torch.nn.Dropout | type(model.gate)):
            module.eval()
    images = images_for(model).double()
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        gradients.append(torch.autograd.grad(model(images).square().sum(), model.backbone.stem_parameters()[0])[0])
    assert relative_error(*gradients) < 1e-10
    with pytest.raises(ConfigError, match="gradient checkpointing"):
        attach(torch.nn.Conv2d(3, 4, 3, 8), "gap", 2, image_size=64).set_grad_checkpointing()


@pytest.mark.parametrize("name", ["gm_sop_4_2_tiny", "gm_sop_16_8_wrn36_2", *ATTACHED])
def test_rates_by_layer(name):
    """Deeper layers learn faster, and the whole head, all components alike, at the full rate."""
    model = model_of(name)
    groups = param_groups_layer_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    names = {n: scale[id(p)] for n, p in model.named_parameters() if p.requires_grad}
    assert {value for n, value in names.items() if n.startswith(("pool.", "norm.", "fc."))} == {1.0}
    (stem,) = {scale[id(p)] for p in model.backbone.stem_parameters()}
    assert stem == min(names.values()) < 0.3
    create_optimizer_v2(model, "adamw", lr=1e-3, layer_decay=0.7)


@pytest.mark.parametrize("how", ["getter", "fx"])
def test_features_only_by_description(how):
    spec = model_of("test_resnet").spec.to_dict()
    levels = timm.create_model(
        "gmsop", spec=spec, features_only=True, feature_cfg={"feature_cls": how}, out_indices=(1, 3)
    )
    assert levels.feature_info.channels() == [m.shape[1] for m in levels.eval()(torch.randn(1, 3, 96, 96))]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", [*NAMED[:5], "test_resnet", "test_mambaout", "test_convnext"])
def test_symbolic_tracing(name, train):
    """By `torch.fx`, and by torchvision's feature extraction as timm's tests use it."""
    feature_extraction = pytest.importorskip("torchvision.models.feature_extraction")
    model = model_of(name).train(train)
    how = {"leaf_modules": list(get_notrace_modules()), "autowrap_functions": list(get_notrace_functions())}
    how["param_shapes_constant"] = True
    nodes = feature_extraction.get_graph_node_names(model, tracer_kwargs=how)
    traced = feature_extraction.create_feature_extractor(
        model, train_return_nodes=[nodes[0][-1]], eval_return_nodes=[nodes[1][-1]], tracer_kwargs=how
    ).train(train)
    images = images_for(model)
    if not train:
        with torch.inference_mode():
            (found,) = traced(images).values()
            assert torch.equal(found, model(images))
        return
    (found,) = traced(images).values()
    found.square().mean().backward()
    grown = {n for n, p in traced.named_parameters() if p.grad is not None}
    assert grown == {n for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["gm_sop_4_2_tiny", "test_resnet"])
def test_jit_tracing(name):
    model = model_of(name).eval()
    images = images_for(model)
    with torch.no_grad():
        traced = torch.jit.trace(model, images, check_trace=False)
        assert relative_error(traced(images.flip(0)), model(images.flip(0))) < 1e-6


def test_class_names_go_where_their_number_differs(tmp_path):
    model = gmsop.create_model("gm_gap_4_2_tiny", 4, top_k=3).eval()
    model.pretrained_cfg["label_names"] = list("abcd")
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
    same = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert (list(same.pretrained_cfg["label_names"]), same.gate.top_k) == (list("abcd"), 3)
    assert gmsop.load_model(tmp_path).spec == model.spec
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=2)
    assert (other.num_classes, other.pretrained_cfg.get("label_names")) == (2, None)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "ghostnet_050", "pit_ti_224"])
def test_layers_after_the_pooling_are_left_out(name):
    own = timm.create_model(name, num_classes=0)
    model = gmsop.attach(name, "sr_sop", num_classes=3)
    logits = model(torch.randn(2, 3, *model.backbone.input_size))
    logits.sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    if name != "pit_ti_224":  # whose last norm has a class token to do, too, and stays
        assert isinstance(model.backbone.model.conv_head, torch.nn.Identity)
        assert all(p.requires_grad for p in model.parameters())
        assert sum(p.numel() for p in model.backbone.parameters()) < sum(p.numel() for p in own.parameters())
