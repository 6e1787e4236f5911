"""The Triton kernels against the naive oracle: on a GPU where there is one, in Triton's interpreter elsewhere."""

import pytest
import torch

from compare import poison, relative_error
from gmsop.ops.mixture import reference

pytest.importorskip("triton")
from gmsop.ops.mixture import triton_component_conv as kernel
from interpreter import require_kernels

require_kernels()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def run(x, weight, chosen, grad, precision="tf32x3"):
    out = kernel.component_conv_forward(x, weight, chosen, precision)
    grad_x = kernel.component_conv_backward_input(grad, out, weight, chosen, len(x), precision)
    grad_weight = kernel.component_conv_backward_weight(grad, out, x, chosen, len(weight), precision)
    return out.cpu(), grad_x.cpu(), grad_weight.cpu()


def oracle(x, weight, chosen, grad):
    x, weight = (t.detach().cpu().double().requires_grad_() for t in (x, weight))
    out = reference.component_conv(x, [weight], chosen.cpu().view(len(x), -1))
    return out.detach(), *torch.autograd.grad(out, (x, weight), grad.cpu().double())


@pytest.mark.parametrize(
    ("images", "top_k", "components", "channels", "features", "positions"),
    [(1, 1, 1, 16, 16, 16), (3, 2, 5, 20, 33, 7), (2, 4, 4, 70, 40, 30), (1, 8, 16, 32, 24, 64)],
)
def test_equals_the_oracle(images, top_k, components, channels, features, positions):
    x = torch.randn(images, channels, positions, device=DEVICE)
    weight = torch.randn(components, features, channels, device=DEVICE)
    chosen = torch.cat([torch.randperm(components)[:top_k] for _ in range(images)]).to(DEVICE)
    grad = torch.randn(images * top_k, features, positions, device=DEVICE)
    found = run(x, weight, chosen, grad)
    for f, e in zip(found, oracle(x, weight, chosen, grad), strict=True):
        assert relative_error(f, e) < 1e-5
    for idle in set(range(components)) - set(chosen.tolist()):
        assert not found[2][idle].any()


def test_choices_of_any_stride():
    """Those of a gate in evaluation are the first columns of a sorted order."""
    x = torch.randn(6, 20, 7, device=DEVICE)
    weight = torch.randn(5, 18, 20, device=DEVICE)
    chosen = torch.rand(6, 5, device=DEVICE).argsort(1)[:, :1].flatten()
    assert not chosen.is_contiguous()
    grad = torch.randn(6, 18, 7, device=DEVICE)
    for f, e in zip(run(x, weight, chosen, grad), oracle(x, weight, chosen, grad), strict=True):
        assert relative_error(f, e) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    if dtype == torch.bfloat16 and DEVICE == "cpu":
        pytest.skip("Triton's interpreter multiplies the bits of bfloat16 as integers")
    x = torch.randn(2, 24, 20, device=DEVICE).to(dtype)
    weight = torch.randn(3, 17, 24, device=DEVICE).to(dtype)
    chosen = torch.tensor([2, 0, 0, 2], device=DEVICE)
    grad = torch.randn(4, 17, 20, device=DEVICE).to(dtype)
    found = run(x, weight, chosen, grad)
    assert [f.dtype for f in found] == [dtype, dtype, torch.float32]  # weights keep the digits of their sum
    for f, e in zip(found, oracle(x, weight, chosen, grad), strict=True):
        assert relative_error(f, e) < {torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]


def test_any_strides_and_every_element_written(monkeypatch):
    x = torch.randn(2, 9, 24, device=DEVICE).mT
    weight = torch.randn(4, 17, 24, device=DEVICE)
    chosen = torch.tensor([1, 3, 3, 0], device=DEVICE)
    grad = torch.randn(4, 17, 1, device=DEVICE).expand(4, 17, 9)
    expected = oracle(x, weight, chosen, grad)
    poison(monkeypatch)
    for f, e in zip(run(x, weight, chosen, grad), expected, strict=True):
        assert relative_error(f, e) < 1e-5


def test_a_nan_is_seen():
    x = torch.randn(2, 16, 16, device=DEVICE)
    x[1, 0, 0] = torch.nan
    out = kernel.component_conv_forward(
        x, torch.randn(1, 16, 16, device=DEVICE), torch.zeros(2, dtype=torch.long, device=DEVICE), "tf32x3"
    )
    assert out[0].isfinite().all()
    assert out[1, :, 0].isnan().all()
