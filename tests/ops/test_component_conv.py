import importlib

import pytest
import torch

from compare import relative_error
from gmsop import ops
from gmsop.errors import ConfigError
from gmsop.ops import naive

module = importlib.import_module("gmsop.ops.component_conv")  # the package shows the function of that name
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def case(images=3, top_k=2, components=5, channels=6, features=7, positions=4, dtype=torch.double, device="cpu"):
    x = torch.randn(images, channels, positions, dtype=dtype).to(device).requires_grad_()
    weights = [torch.randn(features, channels, dtype=dtype).to(device).requires_grad_() for _ in range(components)]
    chosen = torch.stack([torch.randperm(components)[:top_k] for _ in range(images)])
    return x, weights, chosen.to(device)


def oracle(x, weights, chosen):
    return naive.component_conv(x.double().cpu(), torch.stack(list(weights)).double().cpu(), chosen.cpu())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.double, torch.float])
@pytest.mark.parametrize(("images", "top_k", "components"), [(1, 1, 1), (3, 2, 5), (4, 4, 4), (1, 8, 16), (33, 1, 3)])
def test_equals_the_oracle(images, top_k, components, dtype, device):
    x, weights, chosen = case(images, top_k, components, dtype=dtype, device=device)
    found, expected = ops.component_conv(x, weights, chosen), oracle(x, weights, chosen)
    probe = torch.randn_like(expected)
    gradients = [torch.autograd.grad(out, [x, *weights], probe.to(out)) for out in (found, expected)]
    most = 1e-12 if dtype == torch.double else 1e-5
    assert relative_error(found.cpu(), expected) < most
    for f, e in zip(*gradients, strict=True):
        assert relative_error(f.cpu(), e.cpu()) < most


def test_a_component_without_an_image_gets_a_zero_gradient():
    x, weights, _ = case(components=3)
    out = ops.component_conv(x, weights, torch.tensor([[0, 2], [0, 2], [2, 0]]))
    gradients = torch.autograd.grad(out.sum(), weights)
    assert not gradients[1].any()
    assert gradients[0].any()


@pytest.mark.parametrize("device", DEVICES)
def test_autocast(device):
    x, weights, chosen = case(channels=32, dtype=torch.float, device=device)
    with torch.autocast(device, torch.bfloat16):
        out = ops.component_conv(x, weights, chosen)
    gradients = torch.autograd.grad(out.float().sum(), [x, *weights])
    assert out.dtype == torch.bfloat16
    assert {g.dtype for g in gradients} == {torch.float}
    assert relative_error(out.cpu(), oracle(x, weights, chosen)) < 1e-2


def test_strides_and_partial_gradients():
    x, weights, chosen = case()
    last = x.detach().mT.contiguous().mT
    assert relative_error(ops.component_conv(last, weights, chosen), oracle(x, weights, chosen)) < 1e-12
    frozen = [w.detach() for w in weights]
    (gradient,) = torch.autograd.grad(ops.component_conv(x, frozen, chosen).sum(), x)
    assert relative_error(gradient, torch.autograd.grad(oracle(x, frozen, chosen).sum(), x)[0]) < 1e-12
    frozen[1] = weights[1]  # one learns, the others do not
    (gradient,) = torch.autograd.grad(ops.component_conv(x.detach(), frozen, chosen).sum(), weights[1])
    assert relative_error(gradient, torch.autograd.grad(oracle(x, weights, chosen).sum(), weights[1])[0]) < 1e-12


def test_no_image():
    x, weights, _ = case()
    assert ops.component_conv(x[:0], weights, torch.zeros(0, 2, dtype=torch.long)).shape == (0, 7, 4)


def test_gradcheck():
    x, weights, chosen = case()
    assert torch.autograd.gradcheck(lambda x, *w: ops.component_conv(x, w, chosen), (x, *weights))


def test_is_a_lawful_custom_operator():
    x, weights, chosen = case()
    torch.library.opcheck(torch.ops.gmsop.component_conv, (x, weights, chosen.flatten()))


def test_compiles_without_a_graph_break():
    x, weights, chosen = case()
    compiled = torch.compile(ops.component_conv, fullgraph=True, backend="aot_eager")
    results = []
    for f in (compiled, ops.component_conv):
        out = f(x, weights, chosen)
        results.append((out, *torch.autograd.grad(out.sum(), [x, *weights])))
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < 1e-12


def test_what_does_not_fit_together():
    x, weights, chosen = case()
    for wrong in ((x[0], weights, chosen), (x, [], chosen), (x, [w[:, :3] for w in weights], chosen),
                  (x, weights, chosen[0]), (x, weights, chosen[:-1])):  # fmt: skip
        with pytest.raises(ConfigError, match="do not fit"):
            ops.component_conv(*wrong)


def test_the_way_of_other_devices():
    """What runs where there is neither a CPU nor a kernel: an Apple or Intel GPU, or CUDA without Triton."""
    x, weights, chosen = case()
    out, expected = module._component_conv._init_fn(x.detach(), weights, chosen.flatten()), oracle(x, weights, chosen)
    assert relative_error(out, expected) < 1e-12
    probe = torch.randn_like(expected)
    found = module._backward._init_fn(probe, out.detach(), x.detach(), weights, chosen.flatten(), True, True)
    gradients = torch.autograd.grad(expected, [x, *weights], probe)
    assert relative_error(found[0], gradients[0]) < 1e-12
    assert relative_error(found[1], torch.stack(gradients[1:])) < 1e-12
