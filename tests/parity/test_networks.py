"""Whole networks against the authors' own: logits and gate choices; in training also loss and parameter gradients."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compare import GOLDEN, golden, relative_error
from gmsop import ops
from gmsop.convert import load_matconvnet
from gmsop.convert.matconvnet.layout import named_layers
from gmsop.models.classifier import PooledClassifier

MODELS = {
    "ResNet18-GAP": "gap_resnet18",
    "ResNet18-GM-GAP": "gm_gap_16_8_resnet18",
    "ResNet18-GM-SOP": "gm_sop_16_8_resnet18",
}


def load(name: str, dtype: torch.dtype = torch.double) -> PooledClassifier:
    return load_matconvnet(GOLDEN / "checkpoints" / f"{name}-net-epoch-1.mat", dtype)


def inputs(z: dict[str, np.ndarray], dtype: torch.dtype = torch.double) -> tuple[Tensor, Tensor]:
    images = z["images"].astype(float) - z["mean_rgb"][:, None, None]
    return torch.from_numpy(images).to(dtype), torch.from_numpy(z["label"]) - 1


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", ["double", "single"])
def test_evaluation(name, precision):
    z = golden(f"net/{name}_test.npz")
    dtype, bound, prefix = (torch.double, 1e-10, "") if precision == "double" else (torch.float, 1e-4, "single/")
    model = load(name, dtype)
    assert model.pretrained_cfg["architecture"] == MODELS[name]
    assert [255 * v for v in model.pretrained_cfg["mean"]] == pytest.approx(z["mean_rgb"], rel=1e-6)
    x, labels = inputs(z, dtype)
    with torch.no_grad():
        logits, routing = model(x, return_routing=True)
    assert relative_error(logits, z[prefix + "prediction"]) < bound
    objective = F.cross_entropy(logits, labels, reduction="sum").item()
    assert objective == pytest.approx(float(z[prefix + "objective"]), rel=bound)
    assert (logits.argmax(1) != labels).sum() == z["top1error"]
    if routing is not None:
        assert relative_error(routing.logits, z[prefix + "H_x"]) < bound
        assert relative_error(routing.dense, z[prefix + "weights"]) < bound
        assert torch.equal(routing.dense > 0, torch.from_numpy(z["CM_index"]))
        assert 100 * ops.balance_loss(routing.dense) == pytest.approx(float(z[prefix + "balance_loss"]), rel=bound)


class Mask(nn.Module):
    """The authors' dropout mask in place of a random one."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


@cache
def trained(name: str) -> dict[str, object]:
    """One training step's forward and backward pass, with the authors' noise and dropout mask."""
    z = golden(f"net/{name}_train.npz")
    model = load(name).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0  # running statistics become the batch's
    if "gamma" in z:
        noise = torch.from_numpy(z["gamma"])
        model.pool.gate.register_forward_pre_hook(lambda module, args: (args[0], noise))
        model.drop = Mask(torch.from_numpy(z["dropout_mask"]))
    x, labels = inputs(z)
    x.requires_grad_()
    logits, routing = model(x, return_routing=True)
    objective = F.cross_entropy(logits, labels, reduction="sum")
    balance = 0 if routing is None else 100 * ops.balance_loss(routing.dense)
    (objective + balance).backward()
    return {
        "z": z,
        "model": model,
        "x": x,
        "logits": logits,
        "routing": routing,
        "objective": objective,
        "balance": balance,
    }


@pytest.mark.parametrize("name", MODELS)
def test_training_forward(name):
    r = trained(name)
    z = r["z"]
    assert relative_error(r["logits"], z["prediction"]) < 1e-10
    assert r["objective"].item() == pytest.approx(float(z["objective"]), rel=1e-10)
    if r["routing"] is not None:
        assert torch.equal(r["routing"].dense > 0, torch.from_numpy(z["CM_index"]))
        assert relative_error(r["routing"].logits, z["H_x"]) < 1e-10
        assert r["balance"].item() == pytest.approx(float(z["balance_loss"]), rel=1e-10)


def matlab_layout(source: str, parameter: Tensor) -> Tensor:
    """Our parameter's gradient in the fixture's layout."""
    return parameter.T if source.startswith("gating_") and source.endswith("w") and "bn" not in source else parameter


@pytest.mark.parametrize("name", MODELS)
def test_training_gradients(name):
    r = trained(name)
    z, model = r["z"], r["model"]
    named = {}
    for source, _, module in named_layers(model):
        suffixes = ("w", "b") if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) else ("f", "b")
        for suffix, parameter in zip(suffixes, (module.weight, module.bias), strict=True):
            if parameter is not None:
                named[f"{source}_{suffix}"] = parameter.grad
    if r["routing"] is not None:
        named["gating_w"] = model.pool.gate.weight.grad.T
        named["gating_noise_w"] = model.pool.gate.noise_weight.grad.T
    assert len(named) == len(list(model.parameters()))

    checked = 0
    for source, grad in named.items():
        key = f"grad/{source}"
        if f"{key}/none" in z:
            # Deliberate difference: a component without images has a zero gradient here; the official code keeps the
            # previous step's in place.
            assert torch.equal(grad, torch.zeros_like(grad)), source
        elif source == "conv1_b":
            # BatchNorm removes the stem's bias: the gradient is zero but for rounding.
            assert grad.norm() < 1e-9 * named["conv1_f"].norm()
        elif f"{key}/idx" in z:
            flat = grad.flatten()[torch.from_numpy(z[f"{key}/idx"]).long()]
            expected = torch.from_numpy(z[f"{key}/val"])
            scale = float(z[f"{key}/l2"])
            assert (flat.reshape(-1) - expected).norm() < 1e-10 * scale, source
            assert grad.norm().item() == pytest.approx(scale, rel=1e-10), source
        else:
            assert relative_error(grad.reshape(-1), z[key].reshape(-1)) < 1e-10, source
        checked += 1
    assert checked == len(named)
    assert relative_error(r["x"].grad[:2], z["d_input"]) < 1e-10


@pytest.mark.parametrize("name", MODELS)
def test_batch_statistics(name):
    r = trained(name)
    z, count = r["z"], len(r["x"])
    for source, _, module in named_layers(r["model"]):
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            mean, sigma = torch.from_numpy(z[f"moments_x_N/{source}_m"]).T / count
            assert relative_error(module.running_mean, mean) < 1e-10
            # PyTorch keeps the unbiased variance, the official code sqrt(biased variance + eps).
            positions = {"conv1": 4096, "conv2": 4096, "conv3": 1024, "conv4": 256, "fusi": 1}
            side = next((v for k, v in positions.items() if source.startswith(k)), None)
            side = side or (256 if "SOP" in name else 64)
            n = count * side
            biased = module.running_var * (n - 1) / n
            assert relative_error((biased + module.eps).sqrt(), sigma) < 1e-10, source
