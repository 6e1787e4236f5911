import pytest
import torch

from compare import relative_error, symmetrised
from gmsop import ops
from gmsop.errors import ConfigError
from gmsop.ops.second_order import reference


def covariance(batch: int, dim: int, positions: int, scale: float = 1.0, dtype=torch.double) -> torch.Tensor:
    x = torch.randn(batch, dim, positions, dtype=dtype) * scale
    return reference.covariance_pool(x).detach().requires_grad_()


@pytest.mark.parametrize(("batch", "dim", "positions"), [(1, 1, 4), (3, 8, 40), (2, 63, 20), (4, 17, 2), (1, 130, 256)])
@pytest.mark.parametrize("num_iters", [1, 2, 3, 5])
def test_newton_schulz_equals_the_oracle(batch, dim, positions, num_iters):
    cov = covariance(batch, dim, positions)
    found, expected = ops.newton_schulz_sqrt(cov, num_iters), reference.newton_schulz_sqrt(cov, num_iters)
    assert relative_error(found, expected) < 1e-12
    weight = torch.randn_like(expected)
    (found_grad,) = torch.autograd.grad((found * weight).sum(), cov)
    (expected_grad,) = torch.autograd.grad((expected * weight).sum(), cov)
    assert relative_error(found_grad, found_grad.mT) < 1e-13
    assert relative_error(found_grad, symmetrised(expected_grad)) < 1e-11


@pytest.mark.parametrize("root", [ops.newton_schulz_sqrt, ops.eigh_sqrt])
def test_gradcheck_over_symmetric_matrices(root):
    factor = torch.randn(2, 4, 6, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: root(f @ f.mT), factor)


@pytest.mark.parametrize("root", [ops.newton_schulz_sqrt, ops.eigh_sqrt])
def test_gradcheck_entry_by_entry(root):
    """Also a change of one entry alone, which makes the matrix unsymmetric, is differentiated rightly."""
    assert torch.autograd.gradcheck(root, covariance(2, 4, 9))


@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1e6, 1e15])
def test_newton_schulz_at_huge_and_tiny_scales_in_float32(scale):
    cov = covariance(2, 8, 30, scale)
    found = ops.newton_schulz_sqrt(cov.float(), 3)
    assert relative_error(found, reference.newton_schulz_sqrt(cov, 3)) < 1e-5


def test_newton_schulz_converges_to_the_exact_root():
    cov = covariance(2, 6, 100)
    assert relative_error(ops.newton_schulz_sqrt(cov, 15), ops.eigh_sqrt(cov)) < 1e-10


def test_zero_trace_gives_zeros_where_the_official_code_gives_nan():
    cov = torch.zeros(2, 5, 5)
    cov[1] = torch.eye(5)
    cov.requires_grad_()
    root = ops.newton_schulz_sqrt(cov, 3)
    root.sum().backward()
    assert torch.equal(root[0], torch.zeros(5, 5))
    assert torch.isfinite(cov.grad).all()
    assert torch.equal(cov.grad[0], torch.zeros(5, 5))
    assert reference.newton_schulz_sqrt(cov)[0].isnan().all()


def test_nan_is_not_hidden():
    cov = torch.full((1, 3, 3), torch.nan)
    assert ops.newton_schulz_sqrt(cov).isnan().any()


def test_eigh_equals_the_oracle():
    cov = covariance(3, 7, 50)
    found, expected = ops.eigh_sqrt(cov), reference.eigh_sqrt(cov)
    assert relative_error(found, expected) < 1e-12
    assert relative_error(found @ found, cov) < 1e-12
    weight = symmetrised(torch.randn_like(expected))
    gradients = [torch.autograd.grad((y * weight).sum(), cov)[0] for y in (found, expected)]
    assert relative_error(gradients[0], symmetrised(gradients[1])) < 1e-10


@pytest.mark.parametrize(
    "cov",
    [
        torch.zeros(1, 4, 4, dtype=torch.double),
        torch.eye(4, dtype=torch.double)[None],
        torch.diag(torch.tensor([2.0, 2.0, 0.0, 0.0], dtype=torch.double))[None],
        reference.covariance_pool(torch.ones(1, 6, 2, dtype=torch.double) * torch.tensor([1.0, 2.0])),  # rank one
    ],
    ids=["zero", "identity", "repeated and zero", "rank one"],
)
def test_eigh_gradient_is_finite_for_repeated_and_zero_eigenvalues(cov):
    cov = cov.clone().requires_grad_()
    root = ops.eigh_sqrt(cov)
    (root * torch.randn_like(root)).sum().backward()
    assert torch.isfinite(cov.grad).all()
    assert torch.allclose(root @ root, cov, atol=1e-14)


def test_eigh_gradient_of_a_multiple_of_the_identity_is_exact():
    # sqrt(c I + E) = sqrt(c) I + E / (2 sqrt(c)) to first order, so the gradient is sym(G) / (2 sqrt(c)); here c = 4.
    cov = (4 * torch.eye(3, dtype=torch.double))[None].requires_grad_()
    weight = torch.randn(1, 3, 3, dtype=torch.double)
    (grad,) = torch.autograd.grad((ops.eigh_sqrt(cov) * weight).sum(), cov)
    assert relative_error(grad, symmetrised(weight) / 4) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    cov = covariance(2, 8, 40).detach().to(dtype)
    for root, oracle in ((ops.newton_schulz_sqrt, reference.newton_schulz_sqrt), (ops.eigh_sqrt, reference.eigh_sqrt)):
        found = root(cov)
        assert found.dtype == torch.float32
        assert relative_error(found, oracle(symmetrised(cov.double()))) < 1e-5


@pytest.mark.parametrize("bad", [torch.randn(4, 4), torch.randn(2, 3, 4), torch.zeros(1, 2, 2, dtype=torch.int32)])
def test_bad_input_is_named(bad):
    with pytest.raises(ConfigError, match=r"newton_schulz_sqrt: expected .* \(B, D, D\)"):
        ops.newton_schulz_sqrt(bad)
    with pytest.raises(ConfigError, match="eigh_sqrt"):
        ops.eigh_sqrt(bad)


def test_no_iterations_is_refused():
    with pytest.raises(ConfigError, match="num_iters"):
        ops.newton_schulz_sqrt(torch.eye(3)[None], 0)


def test_backward_keeps_only_its_input():
    cov = covariance(2, 16, 40)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ops.newton_schulz_sqrt(cov, 5)
    assert len(kept) == 1
    torch.testing.assert_close(kept[0], cov)
