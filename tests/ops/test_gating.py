import math

import pytest
import torch

from compare import relative_error
from gmsop import ops
from gmsop.errors import ConfigError
from gmsop.ops.mixture import reference


@pytest.mark.parametrize("noisy", [False, True])
def test_logits_equal_the_oracle(noisy):
    inputs = [torch.randn(s, dtype=torch.double, requires_grad=True) for s in ((5, 12), (7, 12), (7, 12))]
    noise = torch.randn(5, dtype=torch.double) if noisy else None
    found, expected = ops.gate_logits(*inputs, noise), reference.gate_logits(*inputs, noise)
    assert relative_error(found, expected) < 1e-14
    weight = torch.randn_like(expected)
    for a, b in zip(
        *(torch.autograd.grad((y * weight).sum(), inputs[: 3 if noisy else 2]) for y in (found, expected)), strict=True
    ):
        assert relative_error(a, b) < 1e-13


def test_noise_is_one_number_per_image():
    f, w = torch.rand(2, 3), torch.rand(4, 3)
    plain = ops.gate_logits(f, w)
    noisy = ops.gate_logits(f, w, torch.zeros(4, 3), torch.tensor([1.0, -2.0]))
    # softplus(0) = ln 2, times the image's noise
    assert torch.allclose(noisy - plain, math.log(2) * torch.tensor([[1.0], [-2.0]]).expand(2, 4))


def test_softplus_neither_overflows_nor_loses_digits():
    spread = torch.tensor([[-800.0, 25.0, 900.0]], dtype=torch.double).T
    logits = ops.gate_logits(torch.ones(1, 1).double(), torch.zeros(3, 1).double(), spread, torch.ones(1).double())
    assert logits[0].tolist() == [0.0, 25 + math.log1p(math.exp(-25)), 900.0]


def test_noise_needs_its_weight():
    with pytest.raises(ConfigError, match="noise_weight"):
        ops.gate_logits(torch.rand(1, 2), torch.rand(3, 2), None, torch.ones(1))


def test_top_k_is_by_score_and_deterministic_in_evaluation():
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    assert ops.top_k_indices(logits, 3).tolist() == [[1, 3, 2], [0, 1, 2]]


def test_random_ties_never_change_the_selected_scores():
    logits = torch.randint(0, 3, (200, 6)).double()
    chosen = logits.gather(1, ops.top_k_indices(logits, 3, random_ties=True))
    assert torch.equal(chosen, logits.sort(1, descending=True).values[:, :3])


def test_random_ties_are_uniform_per_image():
    indices = ops.top_k_indices(torch.zeros(8000, 4), 2, random_ties=True)
    counts = torch.bincount(indices.flatten(), minlength=4)
    # Each component is among the 2 of 4 with probability 1/2: 4000 of 8000, standard deviation 45; five are allowed.
    assert (counts - 4000).abs().max() < 225
    assert len(indices.sort(1).values.unique(dim=0)) == 6  # all pairs occur


def test_random_ties_follow_the_generator():
    draws = [ops.top_k_indices(torch.zeros(20, 5), 2, True, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("k", [0, -1, 5])
def test_impossible_k_is_refused(k):
    with pytest.raises(ConfigError, match="top_k must be between 1 and the number of components, 4"):
        ops.top_k_indices(torch.zeros(1, 4), k)


def test_scores_of_one_image_without_a_batch_are_refused():
    with pytest.raises(ConfigError, match=r"expected scores \(B, N\), got shape \(4,\)"):
        ops.top_k_indices(torch.zeros(4), 2)


def test_gates_are_a_softmax_over_the_selected_only():
    logits = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.double)
    indices = ops.top_k_indices(logits, 2)
    gates = ops.top_k_gates(logits, indices)
    e = math.e
    assert gates[0].tolist() == pytest.approx([e / (1 + e), 1 / (1 + e)], rel=1e-14)  # of 2 and 1; 0 is not selected
    dense = ops.dense_gates(gates, indices, 3)
    assert dense[0].tolist() == pytest.approx([0, 1 / (1 + e), e / (1 + e)], rel=1e-14)


def test_balance_loss_by_hand():
    # Loads 3, 1, 2: mean 2, unbiased variance ((1)^2 + (-1)^2 + 0) / 2 = 1, squared coefficient of variation 1 / 4.
    gates = torch.tensor([[2.0, 0.5, 0.5], [1.0, 0.5, 1.5]])
    assert ops.balance_loss(gates).item() == pytest.approx(0.25)


def test_balance_loss_equals_the_oracle():
    gates = torch.rand(6, 5, dtype=torch.double, requires_grad=True)
    found, expected = ops.balance_loss(gates), reference.balance_loss(gates)
    assert relative_error(found, expected) < 1e-14
    assert relative_error(*(torch.autograd.grad(y, gates)[0] for y in (found, expected))) < 1e-13


def test_balance_loss_gradient_is_finite_at_perfect_balance():
    gates = torch.full((4, 3), 1 / 3, requires_grad=True)
    loss = ops.balance_loss(gates)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(gates.grad).all()


def test_balance_loss_of_one_component_is_zero():
    gates = torch.ones(4, 1, requires_grad=True)
    ops.balance_loss(gates).backward()
    assert gates.grad.tolist() == [[0.0]] * 4


def test_balance_loss_shape_is_checked():
    with pytest.raises(ConfigError, match=r"\(B, N\)"):
        ops.balance_loss(torch.ones(3))


@pytest.mark.parametrize("gates", [torch.zeros(3, 4), torch.zeros(0, 4)])
def test_balance_loss_of_nothing_is_zero(gates):
    gates = gates.double().requires_grad_()
    loss = ops.balance_loss(gates)
    assert loss == reference.balance_loss(gates) == 0
    loss.backward()
    assert gates.grad.isfinite().all()
