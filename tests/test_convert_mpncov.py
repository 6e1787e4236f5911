"""Checkpoints of fast MPN-COV: files in their layout, against the network written out from the paper's equations."""

import itertools
import math
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gmsop
from compare import relative_error
from gmsop.backbones.timm_models import TimmBackbone
from gmsop.cli import main
from gmsop.convert import load_mpncov
from gmsop.convert.mpncov.layout import identify
from gmsop.convert.mpncov.load import is_torch_file
from gmsop.errors import CheckpointError, ConfigError

DIM, CLASSES = 24, 5
VGG_D = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)


# --- their network, from the paper -----------------------------------------------------------------------------------


def norm(a, name, x):
    mean, var, weight, bias = (a[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, weight, bias, eps=1e-5)


def resnet(a, x, last_stride=1):
    x = norm(a, "bn1", F.conv2d(x, a["conv1.weight"], stride=2, padding=3)).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, first in ((1, 1), (2, 2), (3, 2), (4, last_stride)):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in a:
            n, stride, short = f"layer{stage}.{block}", first if block == 0 else 1, x
            y = norm(a, f"{n}.bn1", F.conv2d(x, a[f"{n}.conv1.weight"])).relu()
            y = norm(a, f"{n}.bn2", F.conv2d(y, a[f"{n}.conv2.weight"], stride=stride, padding=1)).relu()
            y = norm(a, f"{n}.bn3", F.conv2d(y, a[f"{n}.conv3.weight"]))
            if block == 0:
                short = norm(a, f"{n}.downsample.1", F.conv2d(x, a[f"{n}.downsample.0.weight"], stride=stride))
            x, block = (y + short).relu(), block + 1
    return norm(a, "layer_reduce_bn", F.conv2d(x, a["layer_reduce.weight"])).relu()


def vgg(a, x):
    layer = 0
    for width in VGG_D:
        if width:
            n = f"features.{layer}"
            x = F.conv2d(x, a[f"{n}.weight"], a[f"{n}.bias"], padding=1)
            x, layer = norm(a, f"features.{layer + 1}", x).relu(), layer + 3
        else:
            x, layer = F.max_pool2d(x, 2, 2), layer + 1
    x = F.conv2d(x, a["representation.conv_dr_block.0.weight"])
    return norm(a, "representation.conv_dr_block.1", x).relu()


def isqrt_cov(x):
    """Equations (1) to (7) of the paper: biased covariance, five iterations, the triangle row by row."""
    b, d, h, w = x.shape
    m, eye = h * w, torch.eye(d, dtype=x.dtype)
    x = x.reshape(b, d, m)
    cov = x @ (torch.eye(m, dtype=x.dtype) - 1 / m) @ x.mT / m
    trace = cov.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    y, z = cov / trace, eye.expand(b, d, d)
    for _ in range(5):
        y, z = y @ (3 * eye - z @ y) / 2, (3 * eye - z @ y) @ z / 2
    rows, columns = torch.triu_indices(d, d)
    return (trace.sqrt() * y)[:, rows, columns]


# --- files in their layout -------------------------------------------------------------------------------------------


class Writer(dict):
    """Arrays by their names, random, and of a size that keeps the features' size."""

    def conv(self, name, out, into, side, bias=False):
        self[f"{name}.weight"] = torch.rand(out, into, side, side, dtype=torch.float64).sub_(0.5)
        self[f"{name}.weight"] *= math.sqrt(24 / (into * side * side))
        if bias:
            self[f"{name}.bias"] = torch.randn(out, dtype=torch.float64)

    def norm(self, name, width):
        for key in ("weight", "bias", "running_mean", "running_var"):
            self[f"{name}.{key}"] = torch.rand(width, dtype=torch.float64) + (
                0.5 if key in ("weight", "running_var") else 0
            )

    def linear(self, name, out, into):
        self[f"{name}.weight"] = torch.randn(out, into, dtype=torch.float64) / math.sqrt(into)
        self[f"{name}.bias"] = torch.randn(out, dtype=torch.float64)


def resnet_arrays(dim=DIM):
    a = Writer()
    a.conv("conv1", 64, 3, 7)
    a.norm("bn1", 64)
    into = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            n = f"layer{stage + 1}.{block}"
            a.conv(f"{n}.conv1", width, into, 1)
            a.conv(f"{n}.conv2", width, width, 3)
            a.conv(f"{n}.conv3", 4 * width, width, 1)
            for i, channels in enumerate((width, width, 4 * width)):
                a.norm(f"{n}.bn{i + 1}", channels)
            if block == 0:
                a.conv(f"{n}.downsample.0", 4 * width, into, 1)
                a.norm(f"{n}.downsample.1", 4 * width)
            into = 4 * width
    a.conv("layer_reduce", dim, 2048, 1)
    a.norm("layer_reduce_bn", dim)
    a.linear("fc", CLASSES, dim * (dim + 1) // 2)
    return a


def vgg_arrays(hidden=(40, 36)):
    a, layer, into = Writer(), 0, 3
    for width in VGG_D:
        if width:
            a.conv(f"features.{layer}", width, into, 3, bias=True)
            a.norm(f"features.{layer + 1}", width)
            into = width
        layer += 3 if width else 1
    a.conv("representation.conv_dr_block.0", DIM, 512, 1)
    a.norm("representation.conv_dr_block.1", DIM)
    widths = (DIM * (DIM + 1) // 2, *hidden, CLASSES)
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        a.linear(f"classifier.{3 * i}" if hidden else "classifier", after, before)
    return a


CHILDREN = (
    "conv1",
    "bn1",
    "relu",
    "maxpool",
    "layer1",
    "layer2",
    "layer3",
    "layer4",
    "layer_reduce",
    "layer_reduce_bn",
)


def taken_apart(arrays, fine_tuned):
    """The names that their training script gives a ResNet: `features` (in DataParallel), representation, classifier."""
    found = {}
    for name, value in arrays.items():
        child, _, rest = name.partition(".")
        if child == "fc":
            found[f"classifier.{rest}"] = value
        elif child.startswith("layer_reduce") and not fine_tuned:
            found[f"representation.conv_dr_block.{int(child.endswith('bn'))}.{rest}"] = value
        else:
            found[f"features.module.{CHILDREN.index(child)}.{rest}"] = value
    return found


def with_counts(arrays):
    counts = {k.replace("running_var", "num_batches_tracked"): torch.tensor(7) for k in arrays if "running_var" in k}
    return {**arrays, **counts}


def checkpoint(arrays, arch):
    """What `main.py` of theirs saves, with the state of its optimizer."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=torch.tensor(0.1), momentum=0.9)
    weight.sum().backward()
    optimizer.step()
    best = torch.tensor(78.3)
    return {"epoch": 3, "arch": arch, "state_dict": OrderedDict(arrays), "best_prec1": best,
            "optimizer": optimizer.state_dict()}  # fmt: skip


def thin(arrays):
    """Return arrays of these shapes with one number for each output, which a file holds once: small, quickly read."""
    return {
        k: ((torch.rand(len(v)) + 0.5) / v[0].numel()).reshape(-1, *[1] * (v.dim() - 1)).expand(v.shape)
        for k, v in arrays.items()
    }


@pytest.fixture(scope="module")
def resnet50():
    torch.manual_seed(1)
    return dict(resnet_arrays())


@pytest.fixture(scope="module")
def small(resnet50):
    return thin(resnet50)


def saved(path, content, legacy=False):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def parity(path, x, expected):
    model = load_mpncov(path, torch.float64)
    assert not model.training
    assert model.num_classes == CLASSES
    with torch.no_grad():
        assert relative_error(model(x), expected) < 1e-10
    return model


# --- tests -----------------------------------------------------------------------------------------------------------


def test_resnet50(resnet50, tmp_path):
    x = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    expected = F.linear(isqrt_cov(resnet(resnet50, x)), resnet50["fc.weight"], resnet50["fc.bias"])
    arrays = {f"module.{k}": v for k, v in resnet50.items()}
    model = parity(saved(tmp_path / "net.pth.tar", checkpoint(arrays, "mpncovresnet50"), legacy=True), x, expected)
    assert model.spec.name == "mpncovresnet50"
    assert (model.num_features, model.head_hidden_size, model.pool.num_iters) == (2048, DIM * (DIM + 1) // 2, 5)
    assert model.backbone.feature_info[-1]["reduction"] == 16
    assert model.forward_features(x).shape == (2, 2048, 6, 4)
    assert {m.dilation for m in model.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}
    cfg = model.pretrained_cfg
    assert (cfg["input_size"], cfg["crop_pct"], cfg["crop_mode"]) == ((3, 224, 224), 0.875, "center")
    assert (cfg["mean"], cfg["std"], cfg["interpolation"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear")
    assert set(cfg["source"]) == {"file", "md5"}
    assert cfg["source"]["file"] == "net.pth.tar"


def test_every_layout_is_the_same_network(small, tmp_path):
    model = load_mpncov(saved(tmp_path / "a.pth", OrderedDict(small)))
    assert model.backbone.model.bn1.num_batches_tracked == 0
    apart = taken_apart(small, fine_tuned=False)
    for content in (
        checkpoint({f"module.{k}": v for k, v in small.items()}, "mpncovresnet50"),
        checkpoint(apart, "mpncovresnet50"),
        apart,
        checkpoint(taken_apart(small, fine_tuned=True), "mpncovresnet50"),
        {"state_dict": with_counts(apart)},
    ):
        again = load_mpncov(saved(tmp_path / "a.pth", content))
        assert again.spec == model.spec
        for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
            assert torch.equal(a, b) or name.endswith("num_batches_tracked"), name
    assert again.backbone.model.layer4[2].bn3.num_batches_tracked == 7
    assert all(p.is_contiguous() and p.requires_grad for p in again.parameters())  # the file's share memory


@pytest.mark.slow
def test_arch_tells_the_stride_of_the_last_stage(resnet50, tmp_path):
    x = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    expected = F.linear(isqrt_cov(resnet(resnet50, x, 2)), resnet50["fc.weight"], resnet50["fc.bias"])
    content = checkpoint(taken_apart(resnet50, fine_tuned=False), "resnet50")
    model = parity(saved(tmp_path / "net.pth.tar", content), x, expected)
    assert model.spec.name == "mpncov_stride2_resnet50"
    content["arch"] = None
    with pytest.warns(UserWarning, match="does not name its network: a last stage of stride 1"):
        assert load_mpncov(saved(tmp_path / "none.pth.tar", content)).spec.name == "mpncovresnet50"


def deeper(arrays):
    """A ResNet-101, which has the sixth block of the third stage of a ResNet-50 eighteen times."""
    blocks = {i: {k: v for k, v in arrays.items() if "layer3.5." in k} for i in range(6, 23)}
    return arrays | {k.replace(".5.", f".{i}."): v for i, block in blocks.items() for k, v in block.items()}


@pytest.mark.parametrize("hidden", [(40, 36), ()])
def test_vgg_d(hidden, tmp_path):
    a = vgg_arrays(hidden)
    x = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    out = isqrt_cov(vgg(a, x))
    for i in range(len(hidden)):
        out = F.linear(out, a[f"classifier.{3 * i}.weight"], a[f"classifier.{3 * i}.bias"]).relu()
    last = "classifier.6" if hidden else "classifier"
    out = F.linear(out, a[f"{last}.weight"], a[f"{last}.bias"])
    wrapped = {k.replace("features.", "features.module."): v for k, v in with_counts(a).items()}
    model = parity(saved(tmp_path / "vgg.pth.tar", wrapped), x, out)
    assert model.spec.name == "mpncovvgg16_bn"
    assert model.forward_features(x).shape == (2, 512, 4, 3)
    assert model.backbone.feature_info[-1]["reduction"] == 16
    assert model.drop_rate == (0.5 if hidden else 0)
    assert [m.p for m in model.pool.modules() if isinstance(m, nn.Dropout)] == ([0.5] if hidden else [])
    with torch.device("meta"):
        again = gmsop.attach(  # as its description says
            "vgg16_bn",
            "sr_sop",
            CLASSES,
            left_out=["features.43", "pre_logits"],
            reduced_dim=DIM,
            fc_dims=hidden or None,
        )
    assert [v.shape for v in again.state_dict().values()] == [v.shape for v in model.state_dict().values()]


def test_the_released_files_have_these_sizes(small):
    """Their README gives the sizes of the files, in units of 2^20 bytes; a number has four."""

    def wide(arrays, reduce, reduce_norm, layers):
        shapes = {k: v.shape for k, v in arrays.items()}
        shapes[f"{reduce}.weight"] = (256, *shapes[f"{reduce}.weight"][1:])
        shapes |= {k: (256,) for k in shapes if k.startswith(f"{reduce_norm}.")}
        for name, shape in layers.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        return {k: torch.zeros(1, 1)[0, 0].expand(shape) for k, shape in shapes.items()}

    reduction, hidden = "representation.conv_dr_block", {"classifier.0": (4096, 32896), "classifier.3": (4096, 4096)}
    found = {}
    for arrays in (
        wide(small, "layer_reduce", "layer_reduce_bn", {"fc": (1000, 32896)}),
        wide(deeper(small), "layer_reduce", "layer_reduce_bn", {"fc": (1000, 32896)}),
        wide(vgg_arrays(), f"{reduction}.0", f"{reduction}.1", hidden | {"classifier.6": (1000, 4096)}),
    ):
        spec, _ = identify(arrays)
        with torch.device("meta"):
            state = gmsop.models.build_spec(spec).state_dict()
        sizes = [v.numel() for k, v in state.items() if not k.endswith("num_batches_tracked")]
        assert sum(sizes) == sum(v.numel() for v in arrays.values())
        found[spec.name] = 4 * sum(sizes) / 2**20
    assert found == pytest.approx(
        {"mpncovresnet50": 217.3, "mpncovresnet101": 289.9, "mpncovvgg16_bn": 650.4}, abs=0.15
    )


def test_leftovers_gaps_and_shapes_are_named(small, tmp_path):
    arrays = {f"module.{k}": v for k, v in small.items()}
    del arrays["module.layer3.4.bn2.running_var"]
    arrays["module.mystery"] = torch.zeros(2)
    arrays["module.layer_reduce.bias"] = torch.zeros(DIM)
    arrays["module.layer2.1.conv2.weight"] = torch.zeros(128, 128, 1, 1)
    arrays["module.bn1.weight"] = torch.full((64,), torch.nan)
    arrays["module.bn1.bias"] = torch.zeros(64, dtype=torch.int64)
    with pytest.raises(CheckpointError) as caught:
        load_mpncov(saved(tmp_path / "net.pth.tar", arrays))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'net.pth.tar'}: the arrays do not fit mpncovresnet50: 1 missing: ")
    assert "1 missing: layer3.4.bn2.running_var; 3 of a wrong shape or content: " in text
    assert "layer2.1.conv2.weight (128, 128, 1, 1), for backbone.model.layer2.1.conv2.weight (128, 128, 3, 3)" in text
    assert "bn1.weight (holds NaN or infinity)" in text
    assert "bn1.bias (holds torch.int64)" in text
    assert text.endswith("2 left over: mystery, layer_reduce.bias")


def test_other_depths_show_in_the_names(small, tmp_path):
    arrays = {k: v for k, v in taken_apart(small, fine_tuned=False).items() if not k.startswith("features.module.7.2")}
    with pytest.raises(CheckpointError, match=r"15 missing: features\.7\.2\.conv1\.weight, .*, and 7 more$"):
        load_mpncov(saved(tmp_path / "a.pth", arrays))
    with pytest.raises(CheckpointError, match=r"1 missing: features\.40\.bias$"):
        load_mpncov(saved(tmp_path / "a.pth", {k: v for k, v in thin(vgg_arrays()).items() if k != "features.40.bias"}))
    arrays = {k: v for k, v in small.items() if k != "layer_reduce.weight"}
    with pytest.raises(CheckpointError, match=r"not a fast MPN-COV network: no array layer_reduce\.weight"):
        load_mpncov(saved(tmp_path / "a.pth", arrays))
    arrays = {**small, "fc.weight": torch.zeros(3, 7)}
    with pytest.raises(CheckpointError, match=r"fc\.weight \(3, 7\), for fc\.weight \(3, 300\)"):
        load_mpncov(saved(tmp_path / "a.pth", arrays))
    with pytest.raises(CheckpointError, match=r"layer_reduce\.weight \(\), for pool\.reduce\.0\.weight"):
        load_mpncov(saved(tmp_path / "a.pth", {**small, "layer_reduce.weight": torch.tensor(1.0)}))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0, 0.00001, 0.1, 0.999])
def test_truncated_files(share, legacy, small, tmp_path):
    path = saved(tmp_path / "net.pth.tar", small, legacy)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"net\.pth\.tar: not a PyTorch file, or damaged"):
        load_mpncov(path)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_nothing_in_a_file_is_run(how, tmp_path, capsys):
    path, trace = tmp_path / "net.pth.tar", tmp_path / "trace"
    content = {"state_dict": {"layer1.0.conv1.weight": torch.zeros(1), "x": Hostile(trace)}}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        saved(path, content, legacy=how == "legacy")
    with pytest.raises(CheckpointError, match=r"net\.pth\.tar: "):
        load_mpncov(path)
    assert main(["convert", str(path), str(tmp_path / "a.safetensors")]) == 1
    assert "net.pth.tar" in capsys.readouterr().err
    assert not trace.exists()
    pickle.loads(pickle.dumps(Hostile(trace)))
    assert trace.exists()  # it would have


def test_a_saved_module_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear would have to run"):
        load_mpncov(saved(tmp_path / "a.pth", nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([1, 2], "holds no state dict of tensors, but a list"),
        ({}, "holds no state dict of tensors, but a dict"),
        ({"state_dict": 3}, "holds no state dict of tensors"),
        ({"epoch": 3}, "'epoch' is a int"),
        ({3: torch.zeros(1)}, "3 is a Tensor"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "'a' is a Tensor"),
        ({"model": {"conv1.weight": torch.zeros(1)}}, "'model' is a dict"),
        ({"module.a": torch.zeros(1), "a": torch.zeros(1)}, "two arrays are called a"),
        ({"a": torch.zeros(1)}, "not a fast MPN-COV network: no array layer1.0.conv1.weight"),
        ({"features.0.weight": torch.zeros(1)}, "no array classifier.0.weight"),
        ({"layer1.0.conv1.weight": torch.zeros(1), "layer_reduce.weight": torch.zeros(0)}, "or an empty one"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_other_contents_are_refused(content, text, tmp_path):
    with pytest.raises(CheckpointError, match=r"a\.pth: ") as caught:
        load_mpncov(saved(tmp_path / "a.pth", content))
    assert text in str(caught.value)


def test_which_files_are_pytorchs(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_mpncov(tmp_path / "none.pth")
    (tmp_path / "a").write_bytes(b"MATLAB 5.0 MAT-file")
    assert not is_torch_file(tmp_path / "a")
    assert not is_torch_file(tmp_path / "none")
    assert is_torch_file(saved(tmp_path / "b.mat", {"a": torch.zeros(1)}))
    assert is_torch_file(saved(tmp_path / "c.mat", {"a": torch.zeros(1)}, legacy=True))


def test_from_the_command_to_a_model(small, tmp_path, capsys):
    source, target = (
        saved(tmp_path / "net.pth.tar", checkpoint(small, "mpncovresnet50"), legacy=True),
        tmp_path / "a.safetensors",
    )
    assert main(["convert", str(source), str(target)]) == 0
    out = capsys.readouterr().out
    model, again = load_mpncov(source), gmsop.load_model(target)
    assert f"mpncovresnet50, {CLASSES} classes, {sum(p.numel() for p in model.parameters()):,} parameters" in out
    assert f"MD5 {model.pretrained_cfg['source']['md5']}\n" in out
    assert "RGB mean 123.67 116.28 103.53" in out
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), again(x))
    assert again.spec == model.spec
    for key in ("input_size", "mean", "std", "crop_pct", "interpolation", "source"):
        assert again.pretrained_cfg[key] == model.pretrained_cfg[key], key


# --- what the backbones learnt for it --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_b0"])
def test_strides_without_dilation(name):
    with torch.device("meta"):
        dilated, plain = (TimmBackbone(name, output_stride=16, dilated=dilated) for dilated in (True, False))
        image = torch.empty(1, 3, 96, 64)
    assert plain(image).shape == dilated(image).shape == (1, plain.num_features, 6, 4)
    convs = [[m for m in each.modules() if isinstance(m, nn.Conv2d)] for each in (dilated, plain)]
    assert {m.dilation for m in convs[0]} > {m.dilation for m in convs[1]} == {(1, 1)}
    changed = [b for a, b in zip(*convs, strict=True) if a.dilation != (1, 1)]
    assert changed
    assert all(m.padding == ((m.kernel_size[0] - 1) // 2,) * 2 for m in changed)


def test_options_that_cannot_be():
    with pytest.raises(ConfigError, match="without output_stride there is no dilation"):
        TimmBackbone("resnet18", dilated=False)
    for name in ("layer9", ""):
        with pytest.raises(ConfigError, match=f"left_out: resnet18 has no module '{name}'"):
            TimmBackbone("resnet18", left_out=[name])


def test_hidden_layers_after_the_pooling(tmp_path):
    model = gmsop.create_model("sr_sop_tiny", 4, fc_dims=[6, 5], fc_drop_rate=0.25, drop_rate=0.5)
    assert (model.head_hidden_size, model.fc.in_features) == (5, 5)
    gmsop.save_model(model, tmp_path / "a.safetensors")
    again = gmsop.load_model(tmp_path / "a.safetensors")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), again(x))
    assert again.pool.layers[2].p == 0.25
    model.train()(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
