"""The Triton kernels against the naive oracle: on a GPU where there is one, in Triton's interpreter elsewhere."""

import pytest
import torch

from compare import poison, relative_error
from gmsop.ops.second_order import reference

pytest.importorskip("triton")
from gmsop.ops.second_order import triton_pooling as kernel
from interpreter import require_kernels

require_kernels()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def oracle(x: torch.Tensor, grad: torch.Tensor, num_iters: int) -> tuple[torch.Tensor, torch.Tensor]:
    exact = x.detach().cpu().double().requires_grad_()
    out = reference.triu_vectorize(reference.newton_schulz_sqrt(reference.covariance_pool(exact), num_iters))
    (gradient,) = torch.autograd.grad(out, exact, grad.cpu().double())
    return out.detach(), gradient


def both(x: torch.Tensor, grad: torch.Tensor, num_iters: int, precision: str = "tf32x3"):
    return (
        kernel.second_order_forward(x, num_iters, precision).cpu(),
        kernel.second_order_backward(x, grad, num_iters, precision).cpu(),
    )


@pytest.mark.parametrize(
    ("batch", "dim", "positions", "num_iters"),
    [(1, 32, 49, 3), (3, 64, 20, 3), (2, 96, 33, 3), (2, 128, 64, 3), (3, 24, 7, 1), (2, 17, 40, 2), (5, 32, 16, 5)],
)
def test_equals_the_oracle(batch, dim, positions, num_iters):
    x = torch.randn(batch, dim, positions, device=DEVICE) + 2
    grad = torch.randn(batch, dim * (dim + 1) // 2, device=DEVICE)
    for found, expected in zip(both(x, grad, num_iters), oracle(x, grad, num_iters), strict=True):
        assert relative_error(found, expected) < 1e-5


@pytest.mark.skipif(DEVICE == "cpu", reason="in the interpreter five images are more than its programs")
@pytest.mark.parametrize(("batch", "dim"), [(1200, 32), (300, 128)])
def test_more_images_than_programs(batch, dim):
    x = torch.randn(batch, dim, 40, device=DEVICE)
    grad = torch.randn(batch, dim * (dim + 1) // 2, device=DEVICE)
    for found, expected in zip(both(x, grad, 3), oracle(x, grad, 3), strict=True):
        assert (found - expected).norm(dim=tuple(range(1, found.dim()))).max() < 1e-5 * expected[0].norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features(dtype):
    x = torch.randn(2, 32, 30, device=DEVICE).to(dtype)
    grad = torch.randn(2, 528, device=DEVICE)
    out, gradient = both(x, grad, 3)
    expected_out, expected_gradient = oracle(x, grad, 3)
    assert gradient.dtype == dtype
    assert relative_error(out, expected_out) < 1e-5
    assert relative_error(gradient, expected_gradient) < {torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]


def test_any_strides():
    x = torch.randn(2, 5, 6, 32, device=DEVICE).permute(0, 3, 1, 2).flatten(2)  # channels last
    grad = torch.randn(528, 2, device=DEVICE).T
    assert not x.is_contiguous()
    for found, expected in zip(both(x, grad, 3), oracle(x, grad, 3), strict=True):
        assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_huge_and_tiny_scales(scale):
    x = torch.randn(2, 32, 40, device=DEVICE) * scale
    grad = torch.randn(2, 528, device=DEVICE)
    for found, expected in zip(both(x, grad, 3), oracle(x, grad, 3), strict=True):
        assert relative_error(found, expected) < 1e-5


def test_a_mean_far_larger_than_the_spread():
    x = torch.randn(2, 32, 64, device=DEVICE).round(decimals=2) + 4096
    grad = torch.randn(2, 528, device=DEVICE)
    for found, expected in zip(both(x, grad, 3), oracle(x, grad, 3), strict=True):
        assert relative_error(found, expected) < 1e-5


def test_a_constant_image_beside_others():
    x = torch.randn(3, 32, 40, device=DEVICE)
    x[1] = 3.25
    grad = torch.randn(3, 528, device=DEVICE)
    out, gradient = both(x, grad, 3)
    assert torch.equal(out[1], torch.zeros(528))
    assert torch.equal(gradient[1], torch.zeros(32, 40))
    rest, rest_gradient = oracle(x[::2], grad[::2], 3)
    assert relative_error(out[::2], rest) < 1e-5
    assert relative_error(gradient[::2], rest_gradient) < 1e-5


def test_a_nan_stays_with_its_image():
    x = torch.randn(3, 32, 40, device=DEVICE)
    x[2, 5, 7] = torch.nan
    out, gradient = both(x, torch.randn(3, 528, device=DEVICE), 3)
    assert out[2].isnan().any()
    assert gradient[2].isnan().any()
    assert out[:2].isfinite().all()
    assert gradient[:2].isfinite().all()


def test_every_element_is_written(monkeypatch):
    """Buffers full of NaN, results and scratch, leave no trace."""
    poison(monkeypatch)
    x = torch.randn(3, 40, 21, device=DEVICE)
    for result in both(x, torch.randn(3, 820, device=DEVICE), 3):
        assert result.isfinite().all()


def test_no_image():
    out, gradient = both(torch.randn(0, 32, 9, device=DEVICE), torch.randn(0, 528, device=DEVICE), 3)
    assert out.shape == (0, 528)
    assert gradient.shape == (0, 32, 9)


@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter multiplies in float32 whatever is asked")
@pytest.mark.parametrize(("precision", "most"), [("tf32", 5e-3), ("bf16", 5e-2)])
def test_faster_and_less_exact(precision, most):
    x = torch.randn(8, 128, 256, device=DEVICE).relu()
    grad = torch.randn(8, 8256, device=DEVICE)
    for found, expected in zip(both(x, grad, 3, precision), oracle(x, grad, 3), strict=True):
        assert 1e-6 < relative_error(found, expected) < most
