"""Heads on several layers: `gmsop.attach(..., layers=[...])`."""

import pytest
import timm
import torch
from torch.nn import functional as F

import gmsop
from gmsop.backbones.timm_models import TimmBackbone
from gmsop.errors import ConfigError, UnknownNameError
from gmsop.nn import GlobalAvgPool, ISqrtCovPool, MultiLayerPool
from gmsop.nn.multi_layer import NORM

CASES = {
    "test_convnext": ["stages.1", "features"],
    "test_vit": ["blocks.2", "features"],
    "test_resnet": [-2, -1],
    "mobilenetv3_small_050": [3, "features"],
    "test_efficientnet": ["blocks.3"],
}


def images(model, count=2):
    return torch.randn(count, 3, *model.backbone.input_size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_the_parts(name):
    model = gmsop.attach(name, "sr_sop", 4, layers=CASES[name], reduced_dim=8).eval()
    x = images(model)
    maps = model.forward_features(x)
    vectors = [pool(level) for pool, level in zip(model.pool.pools, maps, strict=True)]
    pooled = torch.cat([NORM * vector / vector.norm(dim=1, keepdim=True) for vector in vectors], 1)
    torch.testing.assert_close(model(x), model.fc(pooled))
    assert model.head_hidden_size == 36 * len(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_maps_are_those_of_the_model(name):
    trunk = TimmBackbone(name, layers=CASES[name]).eval()
    whole = timm.create_model(name, num_classes=0).eval()
    state = whole.state_dict()
    trunk.model.load_state_dict({key: state[key] for key in trunk.model.state_dict()})
    x = torch.randn(2, 3, *trunk.input_size)
    levels = whole.forward_intermediates(x, output_fmt="NCHW", norm=True, intermediates_only=True)
    names = trunk.layer_names()
    for layer, found in zip(trunk.layers, trunk(x), strict=True):
        if layer != "features":
            torch.testing.assert_close(found, levels[names.index(layer)])
    if "features" in trunk.layers:
        alone = TimmBackbone(name).eval()
        alone.model.load_state_dict({key: state[key] for key in alone.model.state_dict()})
        torch.testing.assert_close(trunk(x)[-1], alone.positions(alone(x))[0])


@pytest.mark.parametrize(
    "name", [name if name == "test_vit" else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_trains_saves_loads_exports(name, tmp_path):
    heads = ["sr_sop", "gap"][: len(CASES[name])]
    model = gmsop.attach(name, heads, 4, layers=CASES[name])
    x = images(model)
    F.cross_entropy(model(x), torch.tensor([0, 3])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    logits = model.eval()(x)
    gmsop.save_model(model, tmp_path / "m.safetensors")
    assert torch.equal(gmsop.load_model(tmp_path / "m.safetensors")(x), logits)
    model.save_pretrained(tmp_path / "folder")
    again = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True).eval()
    assert torch.equal(again(x), logits)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), logits, atol=1e-4, rtol=1e-4)


def test_layers_that_none_needs_are_left_out():
    cut = gmsop.attach("test_resnet", "gap", layers=[1])
    whole = gmsop.attach("test_resnet", "gap")
    assert sum(p.numel() for p in cut.backbone.parameters()) < sum(p.numel() for p in whole.backbone.parameters()) / 2


def test_one_of_the_heads_may_be_a_mixture():
    model = gmsop.attach("test_resnet", ["gap", "gm_sop"], 3, layers=[-2, -1], num_components=4, reduced_dim=8)
    logits, routing = model(images(model), return_routing=True)
    assert logits.shape == (2, 3)
    assert routing.dense.shape == (2, 4)
    assert isinstance(model.pool.norms[1], torch.nn.BatchNorm1d)
    assert model.spec.head_options["parts"][0] == {"head": "gap", "reduced_dim": 8}


def test_a_timm_model_that_is_there():
    own = timm.create_model("test_resnet", num_classes=10).eval()
    expected = own.forward_intermediates(torch.ones(1, 3, 64, 64), indices=[2], intermediates_only=True)[0]
    model = gmsop.attach(own, "gap", layers=["layer2"]).eval()
    torch.testing.assert_close(model.forward_features(torch.ones(1, 3, 64, 64))[0], expected)
    assert model.spec.backbone == "timm"


@pytest.mark.parametrize(
    ("head", "options", "error", "words"),
    [
        ("gm_sop", {"layers": [1, 2]}, ConfigError, "one mixture at most"),
        ("sr_sop", {"layers": ["layer.1"]}, UnknownNameError, "layer1"),
        ("sr_sop", {"layers": [7]}, ConfigError, "levels, 0 to"),
        ("sr_sop", {"layers": []}, ConfigError, "at least one"),
        ("sr_sop", {"layers": "layer1"}, ConfigError, "must be a list"),
        (["gap"], {"layers": [1, 2]}, ConfigError, "1 heads for 2 layers"),
        (["gap"], {}, ConfigError, "list of heads is for layers"),
        ("multi_layer", {}, ConfigError, "made by attach"),
        ("sr_sop", {"layers": [1], "rediced_dim": 8}, ConfigError, "rediced_dim"),
        ([{"head": "sr_sop", "reduced_dim": 0}], {"layers": [1]}, ConfigError, "reduced_dim must be"),
        (GlobalAvgPool(64), {"layers": [1]}, ConfigError, "name the head"),
    ],
)
def test_refuses(head, options, error, words):
    with pytest.raises(error, match=words):
        gmsop.attach("test_resnet", head, 3, **options)


def test_other_backbones_have_no_layers():
    with pytest.raises(ConfigError, match="no timm model"):
        gmsop.attach(torch.nn.Conv2d(3, 8, 3), "gap", layers=[0])


def test_a_vector_of_zeros_stays_one():
    pool = MultiLayerPool([ISqrtCovPool(4), GlobalAvgPool(3)])
    x = [torch.ones(2, 4, 2, 2, requires_grad=True), torch.zeros(2, 3, 1, 1, requires_grad=True)]
    pooled = pool(x)
    pooled.sum().backward()
    assert not pooled.any()
    assert all(each.grad.isfinite().all() for each in x)


@pytest.mark.parametrize("root", ["eigh", "power", "none"])
def test_other_roots(root):
    x = torch.randn(3, 4, 2, 5, dtype=torch.float64, requires_grad=True)
    pool = ISqrtCovPool(4, root=root)
    flat = x.flatten(2)
    centred = flat - flat.mean(2, keepdim=True)
    cov = centred @ centred.mT / 10
    if root == "eigh":
        values, vectors = torch.linalg.eigh(cov)
        cov = vectors @ torch.diag_embed(values.clamp(min=0).sqrt()) @ vectors.mT
    elif root == "power":
        cov = cov.sign() * (cov.abs() + 1e-8).sqrt()
    rows, columns = torch.tril_indices(4, 4)
    torch.testing.assert_close(pool(x), cov[:, columns, rows])
    assert torch.autograd.gradcheck(pool, (x,))
    dead = torch.zeros(2, 4, 2, 2, requires_grad=True)
    pool(dead).sum().backward()
    assert dead.grad.isfinite().all()


def test_a_reduction_starts_from_principal_components():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator)
    maps = [torch.einsum("ij,bjhw->bihw", mixing, torch.randn(4, 6, 3, 3, generator=generator)) + 2 for _ in range(3)]
    pool = ISqrtCovPool(6, 2, init="pca")
    weight = pool.reduce[0].weight[:, :, 0, 0]
    torch.testing.assert_close(weight @ weight.T, torch.eye(2))
    pool.start_from(iter(maps))
    rows = torch.cat(maps).flatten(2).transpose(1, 2).reshape(-1, 6).double()
    expected = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][:2]
    cosines = (pool.reduce[0].weight[:, :, 0, 0].double() @ expected.T).abs()
    torch.testing.assert_close(cosines, torch.eye(2).double(), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="init='pca'"):
        ISqrtCovPool(6, 2).start_from(maps)
    with pytest.raises(ConfigError, match="do not have 2 principal"):
        pool.start_from([torch.ones(1, 6, 1, 2)])
    for wrong in ({"reduced_dim": 7, "init": "pca"}, {"init": "pca"}, {"root": "cube"}):
        with pytest.raises(ConfigError):
            ISqrtCovPool(6, **wrong)
