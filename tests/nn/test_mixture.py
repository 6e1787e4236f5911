import pytest
import torch
from torch import nn

from compare import relative_error
from gmsop.errors import ConfigError
from gmsop.nn import GatedMixture, ParametricGAP, ParametricSOP, TopKGate
from gmsop.ops import naive


def mixture(n: int, k: int, second_order: bool = True) -> GatedMixture:
    gate = TopKGate(6, n, k, dims=(8, 4), second_order=second_order).double()
    nn.init.normal_(gate.weight)
    nn.init.normal_(gate.noise_weight)
    parts = [ParametricSOP(6, 7, 5) if second_order else ParametricGAP(6, 5) for _ in range(n)]
    return GatedMixture(parts, gate).double()


@pytest.mark.parametrize(("n", "k"), [(1, 1), (4, 4), (5, 2), (16, 8)])
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("second_order", [True, False])
def test_equals_the_loop_over_images(n, k, batch, second_order):
    head = mixture(n, k, second_order).eval()
    x = torch.randn(batch, 6, 4, 3, dtype=torch.double, requires_grad=True)
    found, routing = head(x, return_routing=True)
    expected, weights = naive.mixture(x, head.gate(x).logits, k, list(head.components))
    assert relative_error(found, expected) < 1e-12
    assert relative_error(routing.dense, weights) < 1e-12
    probe = torch.randn_like(expected)
    inputs = [x, *(p for name, p in head.named_parameters() if name != "gate.noise_weight")]
    for a, b in zip(
        torch.autograd.grad((found * probe).sum(), inputs),
        torch.autograd.grad((expected * probe).sum(), inputs, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)  # of a single component the gate's gradient is 0


def test_an_empty_batch_gives_an_empty_result():
    head = mixture(4, 2).eval()
    out, routing = head(torch.zeros(0, 6, 4, 4, dtype=torch.double), return_routing=True)
    assert out.shape == (0, 15)
    assert routing.gates.shape == (0, 2)


class Witness(nn.Module):
    """Remembers how many images it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.detach())
        return self.scale * x.mean((2, 3))


def test_a_component_never_sees_an_image_that_did_not_choose_it():
    witnesses = [Witness() for _ in range(6)]
    head = GatedMixture(witnesses, TopKGate(3, 6, 2, dims=(4,), second_order=False)).eval()
    nn.init.normal_(head.gate.weight)
    x = torch.randn(9, 3, 4, 4)
    _, routing = head(x, return_routing=True)
    for n, witness in enumerate(witnesses):
        chosen = x[(routing.indices == n).any(1)]
        assert torch.equal(torch.cat([x[:0], *witness.seen]), chosen)
    assert sum(len(s) for w in witnesses for s in w.seen) == 9 * 2


def test_a_component_without_images_gets_a_zero_gradient():
    head = mixture(5, 1).train()
    head(torch.randn(2, 6, 4, 4, dtype=torch.double)).sum().backward()
    zero = [all((p.grad == 0).all() for p in c.parameters()) for c in head.components]
    assert sum(zero) >= 3
    assert all(p.grad is not None for p in head.parameters())


def test_an_unused_component_only_decays():
    """Deliberate difference: the official code applies the component's previous gradient once more."""
    head = mixture(3, 1).eval()
    with torch.no_grad():
        head.gate.weight.zero_()
        head.gate.weight[0] = 1  # features are non-negative: component 0 wins
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, weight_decay=0.5)
    before = head.components[2].conv1.weight.clone()
    optimizer.zero_grad()
    head(torch.rand(4, 6, 4, 4, dtype=torch.double)).sum().backward()
    optimizer.step()
    assert torch.allclose(head.components[2].conv1.weight, before * (1 - 0.1 * 0.5))


def test_a_constant_map_is_finite_forward_and_backward():
    """Deliberate difference: the official code divides by the trace of a zero covariance and gives NaN."""
    head = mixture(4, 2).train()
    x = torch.ones(3, 6, 4, 4, dtype=torch.double, requires_grad=True)
    out = head(x)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())
    assert naive.newton_schulz_sqrt(naive.covariance_pool(x)).isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("whole", [True, False], ids=["cast as a whole", "autocast"])
def test_half_precision(dtype, whole):
    head = mixture(4, 2).float().eval()
    x = torch.randn(3, 6, 8, 8)
    expected = head(x)
    if whole:
        found = head.to(dtype)(x.to(dtype))
        assert found.dtype == dtype
    else:
        with torch.autocast("cpu", dtype):
            found = head(x)
        found.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)
    assert relative_error(found, expected) < 0.1


def test_the_gate_must_fit_the_components():
    with pytest.raises(ConfigError, match="chooses among 4 components, got 3"):
        GatedMixture([ParametricGAP(6, 5) for _ in range(3)], TopKGate(6, 4, 2))
