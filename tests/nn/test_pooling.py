import pytest
import torch
from torch import nn

from compare import relative_error
from gmsop.errors import ConfigError
from gmsop.nn import GatedMixture, GlobalAvgPool, ISqrtCovPool, ParametricGAP, ParametricSOP
from gmsop.ops.second_order import reference


def oracle(x: torch.Tensor, num_iters: int = 3) -> torch.Tensor:
    return reference.triu_vectorize(reference.newton_schulz_sqrt(reference.covariance_pool(x), num_iters))


def test_average():
    x = torch.randn(2, 3, 4, 5)
    assert torch.allclose(GlobalAvgPool()(x), x.sum((2, 3)) / 20)


@pytest.mark.parametrize("size", [(4, 4), (7, 3), (1, 5)])
def test_isqrt_cov_equals_the_oracle_at_any_size(size):
    x = torch.randn(3, 6, *size, dtype=torch.double)
    assert relative_error(ISqrtCovPool(num_iters=4)(x), oracle(x, 4)) < 1e-12
    assert relative_error(ISqrtCovPool(num_iters=4)(x.to(memory_format=torch.channels_last)), oracle(x, 4)) < 1e-12


def test_isqrt_cov_reduction():
    pool = ISqrtCovPool(12, reduced_dim=5).eval()
    x = torch.randn(2, 12, 6, 6)
    assert pool.out_features == 15
    assert relative_error(pool(x), oracle(pool.reduce(x).double())) < 1e-5
    with pytest.raises(ConfigError, match="reduced_dim needs in_channels"):
        ISqrtCovPool(reduced_dim=5)


def test_parametric_sop_is_two_convolutions_and_a_pool():
    component = ParametricSOP(6, hidden_dim=9, reduced_dim=4).double()
    assert [tuple(p.shape) for p in component.parameters()] == [(9, 6, 1, 1), (4, 9, 1, 1)]  # no bias, no BatchNorm
    x = torch.randn(2, 6, 5, 5, dtype=torch.double)
    a, b = (p[:, :, 0, 0] for p in component.parameters())
    hidden = torch.einsum("oi,bihw->bohw", a, x).clamp(min=0)
    expected = oracle(torch.einsum("oi,bihw->bohw", b, hidden).clamp(min=0))
    assert relative_error(component(x), expected) < 1e-12
    assert component(x).shape == (2, component.out_features)


def test_parametric_gap_is_one_convolution_and_the_mean():
    component = ParametricGAP(6, reduced_dim=4).double()
    x = torch.randn(2, 6, 5, 5, dtype=torch.double)
    (a,) = component.parameters()
    expected = torch.einsum("oi,bihw->bohw", a[:, :, 0, 0], x).clamp(min=0).mean((2, 3))
    assert relative_error(component(x), expected) < 1e-14


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_cast_as_a_whole_keeps_its_dtype(dtype):
    pool = ParametricSOP(8, 8, 8).to(dtype)
    out = pool(torch.randn(2, 8, 6, 6).to(dtype))
    assert out.dtype == dtype
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("pool", [ISqrtCovPool(), ParametricSOP(4, 6, 5), ParametricSOP(4, 6, 5).double()])
def test_constant_maps_and_dead_components_are_finite(pool: nn.Module):
    dtype = next(pool.parameters(), torch.zeros(1)).dtype
    x = torch.full((2, 4, 3, 3), -3.0, dtype=dtype, requires_grad=True)  # constant; after a ReLU perhaps all zero
    out = pool(x)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in pool.parameters())


def test_he_initialisation():
    component = ParametricSOP(128, 256, 128)
    assert component.conv1.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.02)
    assert component.conv2.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.02)


def test_features_of_other_channels_than_announced_are_refused():
    with pytest.raises(ConfigError, match=r"expected features \(B, 5, H, W\), got shape \(2, 3, 4, 4\)"):
        ISqrtCovPool(5)(torch.randn(2, 3, 4, 4))


LAYERS = {
    "gap": GlobalAvgPool,
    "isqrt": ISqrtCovPool,
    "isqrt of 6": lambda: ISqrtCovPool(6, 4),
    "gap component": lambda: ParametricGAP(6, 4),
    "sop component": lambda: ParametricSOP(6, 8, 4),
    "gm_gap": lambda: GatedMixture.first_order(6, num_components=4, reduced_dim=8),
    "gm_sop": lambda: GatedMixture.second_order(6, num_components=4, hidden_dim=8, reduced_dim=4),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_what_is_no_map_is_refused(layer):
    """Another layout would be pooled over the wrong axes, and nothing would show it."""
    pool = LAYERS[layer]().eval()
    for wrong, says in (
        (torch.randn(2, 49, 6), r"map of features \(B, C, H, W\), got shape \(2, 49, 6\); tokens"),
        (torch.randn(2, 6), r"map of features \(B, C, H, W\), got shape \(2, 6\)"),
        (torch.randint(9, (2, 6, 7, 7)), "expected floating-point features, got torch.int64"),
    ):
        with pytest.raises(ConfigError, match=says):
            pool(wrong)
    if layer not in ("gap", "isqrt"):  # which take any number of channels
        with pytest.raises(ConfigError, match=r"channels come second, not last: x\.permute\(0, 3, 1, 2\)"):
            pool(torch.randn(2, 7, 7, 6))
    if "gap" not in layer:
        with pytest.raises(ConfigError, match=r"the map \(2, \d+, 1, 1\) has 1 position, of which there is no covar"):
            pool(torch.randn(2, 6, 1, 1))
    assert pool(torch.randn(0, 6, 7, 7)).shape[0] == 0


@pytest.mark.parametrize("layer", LAYERS)
def test_features_kept_in_half_precision(layer):
    pool = LAYERS[layer]().eval()
    x = torch.randn(2, 6, 5, 5)
    found = pool(x.half())
    assert found.dtype == (torch.float16 if layer in ("gap", "isqrt") else torch.float32)
    assert relative_error(found, pool(x)) < 1e-2


def test_symbolic_tracing_takes_the_pooling_as_one_operation():
    pool = ISqrtCovPool(5, reduced_dim=3).eval()
    x = torch.randn(2, 5, 4, 4)
    assert torch.equal(torch.fx.symbolic_trace(pool)(x), pool(x))


@pytest.mark.parametrize("x", [torch.zeros(4, 6, 0, 5), torch.zeros(4, 6, 3, 3, dtype=torch.complex64)])
@pytest.mark.parametrize("pool", [GlobalAvgPool(), ISqrtCovPool(6), ParametricGAP(6, 4), ParametricSOP(6, 5, 4)])
def test_maps_without_positions_and_complex_ones_are_refused(pool, x):
    with pytest.raises(ConfigError, match=r"no positions|floating-point"):
        pool(x)


@pytest.mark.parametrize(
    "options", [{"num_iters": 2.5}, {"num_iters": 0}, {"in_channels": 0, "reduced_dim": 8}, {"reduced_dim": -1}]
)
def test_sizes_that_cannot_be(options):
    with pytest.raises(ConfigError, match="must be"):
        ISqrtCovPool(**{"in_channels": 16, **options})
