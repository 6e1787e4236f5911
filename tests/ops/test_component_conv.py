import importlib
from itertools import pairwise

import pytest
import torch

from compare import DEVICES, relative_error
from gmsop import ops
from gmsop.errors import ConfigError
from gmsop.ops.mixture import reference

module = importlib.import_module("gmsop.ops.mixture.component_conv")  # the package shows the function of that name


def case(images=3, top_k=2, components=5, widths=(6, 7), positions=4, dtype=torch.double, device="cpu"):
    """`widths`: channels of the features and of what comes of each layer."""

    def leaf(*shape):
        return torch.randn(*shape, dtype=dtype).to(device).requires_grad_()

    x = leaf(images, widths[0], positions)
    layers = [[leaf(o, c) for _ in range(components)] for c, o in pairwise(widths)]
    chosen = torch.stack([torch.randperm(components)[:top_k] for _ in range(images)])
    return x, layers, chosen.to(device)


def flat(layers):
    return [w for weights in layers for w in weights]


def oracle(x, layers, chosen):
    return reference.component_conv(x.double().cpu(), [[w.double().cpu() for w in ws] for ws in layers], chosen.cpu())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.double, torch.float])
@pytest.mark.parametrize("widths", [(6, 7), (6, 7, 5), (3, 4, 9, 2)])
@pytest.mark.parametrize(("images", "top_k", "components"), [(1, 1, 1), (3, 2, 5), (4, 4, 4), (1, 8, 16), (33, 1, 3)])
def test_equals_the_oracle(images, top_k, components, widths, dtype, device):
    x, layers, chosen = case(images, top_k, components, widths, dtype=dtype, device=device)
    found, expected = ops.component_conv(x, layers, chosen), oracle(x, layers, chosen)
    probe = torch.randn_like(expected)
    gradients = [
        torch.autograd.grad(out, [x, *flat(layers)], probe.to(out), materialize_grads=True) for out in (found, expected)
    ]
    most = 1e-12 if dtype == torch.double else 1e-5
    assert relative_error(found.cpu(), expected) < most
    for f, e in zip(*gradients, strict=True):
        if e.any():
            assert relative_error(f.cpu(), e.cpu()) < most
        else:
            assert not f.any()


def test_without_a_gradient_nothing_hidden_is_kept():
    x, layers, chosen = case(widths=(6, 7, 5))
    with torch.no_grad():
        assert torch.equal(ops.component_conv(x, layers, chosen), ops.component_conv(x.detach(), layers, chosen))
    hidden, last = torch.ops.gmsop.component_conv(x, flat(layers), 2, chosen.flatten(), False)
    assert (hidden.shape, last.shape) == ((0, 7, 4), (6, 5, 4))


def test_a_component_without_an_image_gets_a_zero_gradient():
    x, layers, _ = case(components=3, widths=(6, 7, 5))
    out = ops.component_conv(x, layers, torch.tensor([[0, 2], [0, 2], [2, 0]]))
    for gradients in (torch.autograd.grad(out.sum(), weights, retain_graph=True) for weights in layers):
        assert not gradients[1].any()
        assert gradients[0].any()


def test_autocast_leaves_float64_alone():
    x, layers, chosen = case()
    with torch.autocast("cpu", torch.bfloat16):
        out = ops.component_conv(x, layers, chosen)
    assert out.dtype == torch.double
    assert relative_error(out, oracle(x, layers, chosen)) < 1e-12


@pytest.mark.parametrize("device", DEVICES)
def test_autocast(device):
    x, layers, chosen = case(widths=(32, 7, 5), dtype=torch.float, device=device)
    with torch.autocast(device, torch.bfloat16):
        out = ops.component_conv(x, layers, chosen)
    gradients = torch.autograd.grad(out.float().sum(), [x, *flat(layers)])
    assert out.dtype == torch.bfloat16
    assert {g.dtype for g in gradients} == {torch.float}
    assert relative_error(out.cpu(), oracle(x, layers, chosen)) < 2e-2
    expected = torch.autograd.grad(oracle(x, layers, chosen).sum(), [x, *flat(layers)], materialize_grads=True)
    for found, exact in zip(gradients, expected, strict=True):
        assert relative_error(found.cpu(), exact) < 4e-2 if exact.any() else not found.any()


def test_strides_and_partial_gradients():
    x, layers, chosen = case(widths=(6, 7, 5))
    last = x.detach().mT.contiguous().mT
    assert relative_error(ops.component_conv(last, layers, chosen), oracle(x, layers, chosen)) < 1e-12
    frozen = [[w.detach() for w in weights] for weights in layers]
    (gradient,) = torch.autograd.grad(ops.component_conv(x, frozen, chosen).sum(), x)
    assert relative_error(gradient, torch.autograd.grad(oracle(x, frozen, chosen).sum(), x)[0]) < 1e-12
    one = layers[0][chosen[0, 0]]
    frozen[0][chosen[0, 0]] = one  # one learns, the others do not
    (gradient,) = torch.autograd.grad(ops.component_conv(x.detach(), frozen, chosen).sum(), one)
    assert relative_error(gradient, torch.autograd.grad(oracle(x, layers, chosen).sum(), one)[0]) < 1e-12


@pytest.mark.parametrize("device", DEVICES)
def test_weights_as_a_convolution_has_them(device):
    x, layers, chosen = case(widths=(6, 7, 5), device=device)
    square = [[w.detach()[:, :, None, None].requires_grad_() for w in weights] for weights in layers]
    results = []
    for weights in (layers, square):
        out = ops.component_conv(x, weights, chosen)
        results.append((out, *torch.autograd.grad(out.sin().sum(), [x, *flat(weights)])))
    for flat_one, square_one in zip(*results, strict=True):
        assert torch.equal(flat_one, square_one.reshape(flat_one.shape))
    assert [g.shape for g in results[1][2:]] == [w.shape for w in flat(square)]


def test_no_image():
    x, layers, _ = case(widths=(6, 7, 5))
    assert ops.component_conv(x[:0], layers, torch.zeros(0, 2, dtype=torch.long)).shape == (0, 5, 4)
    out = ops.component_conv(x[:0].detach().requires_grad_(), layers, torch.zeros(0, 2, dtype=torch.long))
    assert not any(g.any() for g in torch.autograd.grad(out.sum(), flat(layers)))


def test_gradcheck():
    x, layers, chosen = case(widths=(6, 7, 5))
    assert torch.autograd.gradcheck(lambda x, *w: ops.component_conv(x, (w[:5], w[5:]), chosen), (x, *flat(layers)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("keep", [True, False])
def test_is_a_lawful_custom_operator(keep, device):
    x, layers, chosen = case(widths=(6, 7, 5), dtype=torch.double if device == "cpu" else torch.float, device=device)
    inputs = (x, flat(layers)) if keep else (x.detach(), [w.detach() for w in flat(layers)])
    torch.library.opcheck(torch.ops.gmsop.component_conv, (*inputs, 2, chosen.flatten(), keep))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_without_a_graph_break(device):
    x, layers, chosen = case(widths=(6, 7, 5), device=device)
    compiled = torch.compile(ops.component_conv, fullgraph=True, backend="aot_eager")
    results = []
    for f in (compiled, ops.component_conv):
        out = f(x, layers, chosen)
        results.append((out, *torch.autograd.grad(out.sum(), [x, *flat(layers)])))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_what_does_not_fit_together():
    x, layers, chosen = case(widths=(6, 7, 5))
    first, second = layers
    thin = [w[:, :3] for w in second]
    for features, weights, choices in (
        *((x, weights, chosen) for weights in ([], [[], []], [second], [first, first], [first, thin])),
        *((x, [first, second[:-1]], chosen), (x[0], layers, chosen), (x, layers, chosen[0]), (x, layers, chosen[:-1])),
    ):
        with pytest.raises(ConfigError, match="do not fit"):
            ops.component_conv(features, weights, choices)


@pytest.mark.parametrize("square", [(), (1, 1)])
@pytest.mark.parametrize("keep", [True, False])
def test_the_way_of_other_devices(keep, square):
    """What runs where there is neither a CPU nor a kernel: an Apple or Intel GPU, or CUDA without Triton."""
    x, layers, chosen = case(widths=(6, 7, 5))
    weights = [w.detach().view(*w.shape, *square) for w in flat(layers)]
    outs = module._component_conv._init_fn(x.detach(), weights, 2, chosen.flatten(), keep)
    expected = oracle(x, layers, chosen)
    assert relative_error(outs[-1], expected) < 1e-12
    assert len(outs[0]) == (6 if keep else 0)
    if keep:
        probe = torch.randn_like(expected)
        outs = [out.detach() for out in outs]
        found = module._backward._init_fn(probe, outs, x.detach(), weights, chosen.flatten(), True, True)
        gradients = torch.autograd.grad(expected, [x, *flat(layers)], probe, materialize_grads=True)
        assert relative_error(found[0], gradients[0]) < 1e-12
        assert [g.shape for g in found[1:]] == [(5, 7, 6, *square), (5, 5, 7, *square)]
        assert relative_error(found[1].flatten(2), torch.stack(gradients[1:6])) < 1e-12
        assert relative_error(found[2].flatten(2), torch.stack(gradients[6:])) < 1e-12


def test_the_kernels_stand_in_the_same_place(monkeypatch):
    """On a GPU, and elsewhere in Triton's interpreter: what the operator runs where it has kernels."""
    interpreter = pytest.importorskip("interpreter")
    interpreter.require_kernels()
    from gmsop.ops.mixture import triton_component_conv as kernel

    called = []
    for name in ("forward", "backward_input", "backward_weight"):
        function = getattr(kernel, f"component_conv_{name}")
        counting = lambda *a, f=function, n=name: called.append(n) or f(*a)  # noqa: E731
        monkeypatch.setattr(kernel, f"component_conv_{name}", counting)
    interpreter.use_kernels(monkeypatch)
    x, layers, chosen = case(widths=(16, 20, 9), dtype=torch.float, device=DEVICES[-1])
    outs = module._component_conv._init_fn(x.detach(), flat(layers), 2, chosen.flatten(), True)
    exact, *exact_weights = (t.detach().cpu().double().requires_grad_() for t in (x, *flat(layers)))
    expected = reference.component_conv(exact, [exact_weights[:5], exact_weights[5:]], chosen.cpu())
    assert relative_error(outs[-1].cpu(), expected) < 1e-5
    probe = torch.randn_like(expected)
    expected = torch.autograd.grad(expected, [exact, *exact_weights], probe, materialize_grads=True)
    outs = [out.detach() for out in outs]
    of_x, first, second = module._backward._init_fn(
        probe.float().to(x.device), outs, x.detach(), flat(layers), chosen.flatten(), True, True
    )
    assert relative_error(of_x.cpu(), expected[0]) < 1e-5
    assert relative_error(first.cpu(), torch.stack(expected[1:6])) < 1e-5
    assert relative_error(second.cpu(), torch.stack(expected[6:])) < 1e-5
    assert called == ["forward"] * 2 + ["backward_input", "backward_weight"] * 2


def test_compiles_for_any_number_of_images():
    graphs = []
    compiled = torch.compile(ops.component_conv, fullgraph=True, backend=lambda g, _: graphs.append(g) or g.forward)
    for images in (3, 2):
        x, layers, chosen = case(images, widths=(6, 7, 5))
        for dynamic in (x, chosen):
            torch._dynamo.mark_dynamic(dynamic, 0)
        assert relative_error(compiled(x, layers, chosen), oracle(x, layers, chosen)) < 1e-12
    assert len(graphs) == 1


@pytest.mark.parametrize("wrong", [-1, 5])
def test_choices_out_of_range_are_refused_on_a_cpu(wrong):
    x, layers, chosen = case(widths=(6, 7, 5))
    chosen[0, 0] = wrong
    with pytest.raises(ConfigError, match=f"{wrong}.*of 5 components"):
        ops.component_conv(x, layers, chosen)
