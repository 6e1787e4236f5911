import pytest
import torch

from compare import DEVICES, relative_error
from gmsop import ops
from gmsop.errors import ConfigError
from gmsop.ops import kernels
from gmsop.ops.second_order import pooling as second_order
from gmsop.ops.second_order import reference


def oracle(x: torch.Tensor, num_iters: int) -> torch.Tensor:
    return reference.triu_vectorize(reference.newton_schulz_sqrt(reference.covariance_pool(x), num_iters))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_iters", [1, 2, 3, 5])
@pytest.mark.parametrize(("batch", "dim", "positions"), [(1, 1, 4), (3, 7, 5), (2, 63, 20), (5, 130, 140)])
def test_equals_the_oracle(batch, dim, positions, num_iters, device):
    x = torch.randn(batch, dim, positions, dtype=torch.double).to(device).requires_grad_()
    probe = torch.randn(batch, ops.triu_size(dim), dtype=torch.double).to(device)
    found, expected = ops.second_order_pool(x, num_iters), oracle(x, num_iters)
    assert relative_error(found.cpu(), expected.cpu()) < 1e-12
    gradients = [torch.autograd.grad(out, x, probe)[0].cpu() for out in (found, expected)]
    assert relative_error(*gradients) < 1e-11


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dim", [32, 96, 128, 192])
def test_float32(dim, device):
    x = torch.randn(4, dim, 9, 9, device=device).relu().contiguous(memory_format=torch.channels_last).requires_grad_()
    exact = x.detach().double().cpu().requires_grad_()
    found, expected = ops.second_order_pool(x), oracle(exact, 3)
    probe = torch.randn_like(expected)
    found.backward(probe.float().to(device))
    expected.backward(probe)
    assert relative_error(found.cpu(), expected) < 1e-5
    assert relative_error(x.grad.cpu(), exact.grad) < 1e-5


@pytest.mark.parametrize("dim", [16, 300])  # many images at a time, and one
def test_parts_of_the_batch_meet(dim, monkeypatch):
    x = torch.randn(7, dim, 10, dtype=torch.double, requires_grad=True)
    probe = torch.randn(7, ops.triu_size(dim), dtype=torch.double)
    results = []
    for cached in (second_order.CACHED_BYTES, 3 * 4 * dim**2):
        monkeypatch.setattr(second_order, "CACHED_BYTES", cached)
        out = ops.second_order_pool(x)
        results.append((out, *torch.autograd.grad(out, x, probe)))
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < 1e-14


def test_a_constant_map_and_an_empty_batch():
    x = torch.full((2, 5, 3, 3), 7.0, requires_grad=True)
    out = ops.second_order_pool(x)
    out.sum().backward()
    assert not out.any()
    assert not x.grad.any()
    assert ops.second_order_pool(torch.randn(0, 5, 3, 3)).shape == (0, 15)


def test_gradcheck():
    x = torch.randn(2, 4, 6, dtype=torch.double, requires_grad=True)
    for num_iters in (1, 3, 4):
        assert torch.autograd.gradcheck(lambda x, t=num_iters: ops.second_order_pool(x, t), x)


@pytest.mark.parametrize("device", DEVICES)
def test_is_a_lawful_custom_operator(device):
    """Schema, fake tensors and autograd registration, as `torch.compile` and `torch.export` need them."""
    x = torch.randn(2, 4, 6, dtype=torch.double if device == "cpu" else torch.float, device=device, requires_grad=True)
    for num_iters, keep in ((3, True), (2, True), (3, False)):
        torch.library.opcheck(torch.ops.gmsop.second_order_pool, (x.detach(), num_iters, keep, False))


def test_keeps_nothing_without_a_gradient():
    x = torch.randn(2, 4, 6)
    assert torch.ops.gmsop.second_order_pool(x, 3, False, False)[1].numel() == 0
    found = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: found.append(t.numel()) or t, lambda t: t):
        out = ops.second_order_pool(x.requires_grad_())
    kept = 3 * 2 * 4 * 4 + 2 + 2 * 4  # of each image three matrices, the trace, the means
    assert sum(found) == x.numel() + out.numel() + kept


def test_training_after_inference_mode():
    """What is kept from call to call was made where no gradient may be recorded."""
    second_order._tables.cache_clear()
    x = torch.randn(2, 6, 5, dtype=torch.double, requires_grad=True)
    with torch.inference_mode():
        found = ops.second_order_pool(x)
    assert relative_error(found, oracle(x, 3)) < 1e-12
    out = ops.second_order_pool(x)
    gradients = [torch.autograd.grad(y.sum(), x)[0] for y in (out, oracle(x, 3))]
    assert relative_error(*gradients) < 1e-11


def test_the_kernel_stands_in_the_same_place(monkeypatch):
    interpreter = pytest.importorskip("interpreter")
    interpreter.require_kernels()
    device = DEVICES[-1]
    interpreter.use_kernels(monkeypatch)
    called = []
    from gmsop.ops.second_order import triton_pooling as kernel

    for name in ("second_order_forward", "second_order_backward"):
        function = getattr(kernel, name)
        monkeypatch.setattr(kernel, name, lambda *a, f=function, n=name: called.append(n) or f(*a))
    x = torch.randn(2, 20, 11, device=device, requires_grad=True)
    probe = torch.randn(2, 210, device=device)
    out = ops.second_order_pool(x)
    (gradient,) = torch.autograd.grad(out, x, probe)
    exact = x.detach().cpu().double().requires_grad_()
    expected = oracle(exact, 3)
    (expected_gradient,) = torch.autograd.grad(expected, exact, probe.cpu().double())
    assert called == ["second_order_forward", "second_order_backward"]
    assert relative_error(out.cpu(), expected) < 1e-5
    assert relative_error(gradient.cpu(), expected_gradient) < 1e-5
    assert ops.second_order_pool(x.double()).dtype == torch.double  # which the kernel does not take
    assert len(called) == 2


@pytest.mark.parametrize(
    "x", [torch.randn(2, 3), torch.zeros(2, 3, 4, dtype=torch.int), torch.randn(2, 3, 0), torch.randn(2, 0, 3)]
)
def test_bad_features(x):
    with pytest.raises(ConfigError, match="second_order_pool"):
        ops.second_order_pool(x)


def test_bad_number_of_iterations():
    with pytest.raises(ConfigError, match="at least 1"):
        ops.second_order_pool(torch.randn(2, 3, 4), 0)


@pytest.mark.parametrize("failing", ["second_order_forward", "second_order_backward"])
def test_a_kernel_that_cannot_run_costs_one_warning(failing, monkeypatch, caplog):
    interpreter = pytest.importorskip("interpreter")
    interpreter.require_kernels()
    from gmsop.ops.second_order import triton_pooling as kernel

    def cannot(*_):
        raise RuntimeError("out of shared memory")

    interpreter.use_kernels(monkeypatch)
    monkeypatch.setattr(kernels, "_failed", set())
    monkeypatch.setattr(kernel, failing, cannot)
    x = torch.randn(2, 20, 11, device=DEVICES[-1], requires_grad=True)
    probe = torch.randn(2, 210, device=DEVICES[-1])
    exact = x.detach().cpu().double().requires_grad_()
    expected = oracle(exact, 3)
    (expected_gradient,) = torch.autograd.grad(expected, exact, probe.cpu().double())
    for _ in range(2):
        out = ops.second_order_pool(x)
        (gradient,) = torch.autograd.grad(out, x, probe)
        assert relative_error(out.cpu(), expected) < 1e-5
        assert relative_error(gradient.cpu(), expected_gradient) < 1e-5
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "out of shared memory" in caplog.text
