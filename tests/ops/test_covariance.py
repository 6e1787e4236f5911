import pytest
import torch

from compare import relative_error
from gmsop import ops
from gmsop.errors import ConfigError
from gmsop.ops.second_order import reference

SHAPES = [(1, 5, 1, 1), (3, 7, 4, 4), (2, 130, 3, 5), (4, 63, 9, 8), (1, 1, 6, 6)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "three_axes"])
def test_equals_the_oracle(shape, layout):
    x = torch.randn(shape, dtype=torch.double) * 3 + 5
    x = x.to(memory_format=torch.channels_last) if layout == "channels_last" else x
    x = x.flatten(2) if layout == "three_axes" else x
    x.requires_grad_()
    found, expected = ops.covariance_pool(x), reference.covariance_pool(x)
    assert relative_error(found, expected) < 1e-13
    weight = torch.randn_like(expected)  # not symmetric: the whole gradient is checked
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, expected)]
    assert relative_error(*gradients) < 1e-12


def test_gradcheck():
    x = torch.randn(2, 3, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(ops.covariance_pool, x)


def test_offset_of_the_features_does_not_cost_digits():
    x = torch.randn(2, 8, 64)
    exact = reference.covariance_pool((x + 1000).double())
    assert relative_error(ops.covariance_pool(x + 1000), exact) < 1e-4


def test_offset_of_the_features_does_not_leak_into_the_gradient():
    x = (torch.randn(2, 8, 64) * 0.01 + 10).requires_grad_()
    probe = torch.randn(2, 8, 8)
    (found,) = torch.autograd.grad((ops.covariance_pool(x) * probe).sum(), x)
    exact = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad((reference.covariance_pool(exact) * probe).sum(), exact)
    assert relative_error(found, expected) < 1e-5
    assert found.sum(2).abs().max() < 1e-5 * found.abs().sum(2).max()


def test_constant_map_gives_zeros_and_finite_gradient():
    x = torch.full((2, 4, 3, 3), 7.0, requires_grad=True)
    ops.covariance_pool(x).sum().backward()
    assert torch.equal(ops.covariance_pool(x), torch.zeros(2, 4, 4))
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x = torch.randn(2, 16, 8, 8).to(dtype)
    found = ops.covariance_pool(x)
    assert found.dtype == torch.float32
    assert relative_error(found, reference.covariance_pool(x.double())) < 1e-6


@pytest.mark.parametrize("bad", [torch.randn(3, 4), torch.zeros(2, 3, 4, dtype=torch.int64), torch.randn(2, 3, 0)])
def test_bad_input_is_named(bad):
    with pytest.raises(ConfigError, match="covariance_pool"):
        ops.covariance_pool(bad)
