import warnings

import pytest
import torch

from gmsop.errors import ConfigError, GmsopWarning
from gmsop.nn import TopKGate
from gmsop.ops import balance_loss


def test_starts_as_a_tie_that_training_draws_at_random():
    gate = TopKGate(8, 6, 2, dims=(10, 4))
    assert torch.equal(gate.weight, torch.full((6, 10), 1 / 10))  # D = 4 gives 10 features
    assert torch.equal(gate.noise_weight, gate.weight)
    routing = gate.train()(torch.randn(300, 8, 4, 4))
    assert torch.equal(routing.gates, torch.full((300, 2), 0.5))
    counts = torch.bincount(routing.indices.flatten(), minlength=6)  # 100 expected, standard deviation 8.2
    assert counts.min() > 50


def test_evaluation_is_deterministic_and_takes_the_lowest_of_a_tie():
    gate = TopKGate(8, 6, 2, dims=(10, 4)).eval()
    x = torch.randn(5, 8, 4, 4)
    first, second = gate(x), gate(x)
    assert first.indices.tolist() == [[0, 1]] * 5
    assert torch.equal(first.logits, second.logits)


def test_noise_belongs_to_training_only():
    gate = TopKGate(8, 6, 2, dims=(4,), second_order=False)
    torch.nn.init.normal_(gate.weight)
    x = torch.randn(40, 8, 4, 4)
    gate.train()
    assert not torch.equal(gate(x).logits, gate(x).logits)
    still = gate.eval()(x).logits
    assert torch.equal(gate(x, noise=torch.zeros(40)).logits, still)


def test_the_same_seed_gives_the_same_routing():
    gate = TopKGate(8, 6, 3).train()
    x = torch.randn(10, 8, 4, 4)
    routings = []
    for _ in range(2):
        torch.manual_seed(5)
        routings.append(gate(x))
    assert torch.equal(routings[0].indices, routings[1].indices)
    assert torch.equal(routings[0].gates, routings[1].gates)


def test_dense_weights_sum_to_one():
    gate = TopKGate(8, 6, 3)
    dense = gate(torch.randn(4, 8, 4, 4)).dense
    assert dense.shape == (4, 6)
    assert ((dense > 0).sum(1) == 3).all()
    assert torch.allclose(dense.sum(1), torch.ones(4))


@pytest.mark.parametrize("top_k", [0, -1, 5])
def test_impossible_top_k(top_k):
    with pytest.raises(ConfigError, match="top_k must be between 1 and num_components = 4"):
        TopKGate(8, 4, top_k)


def test_no_prediction_layer():
    with pytest.raises(ConfigError, match="at least one"):
        TopKGate(8, 4, 2, dims=())


def test_a_gate_that_cannot_learn_is_said():
    """The softmax over one score is 1 whatever the score is."""
    with pytest.warns(GmsopWarning, match="top_k=1: .* never learns"):
        gate = TopKGate(6, 4, 1, (5,))
    routing = gate(torch.randn(8, 6, 4, 4))
    (routing.gates.square().sum() + balance_loss(routing.dense)).backward()
    assert all(p.grad is None or not p.grad.any() for p in gate.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TopKGate(6, 4, 2, (5,))
        TopKGate(6, 1, 1, (5,))
