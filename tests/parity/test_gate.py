"""Gate, routing, components, fusion and balance loss against the authors' layers, forward and backward."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from compare import GOLDEN, golden, relative_error
from gmsop import ops
from gmsop.nn import ParametricGAP, ParametricSOP

NAMES = sorted(path.stem for path in (GOLDEN / "gate").glob("*.npz"))
SAME = [name for name in NAMES if "zero" not in name]
RANDOM_CHOICE = ("allequal",)  # every score of the batch ties: the official code drew the components


def run(name: str) -> SimpleNamespace:
    """Forward and backward of everything in one fixture, and what the authors got."""
    z = {k: torch.from_numpy(v) if v.dtype.kind in "fb" else v for k, v in golden(f"gate/{name}.npz").items()}
    n, k = z["gating_w"].shape[1], int(z["topk"])
    second_order = int(z["order"]) == 2
    leaves = {key: z[key].clone().requires_grad_() for key in ("feat", "gate_in", "gating_w", "gating_noise_w")}
    components = []
    for i in range(1, n + 1):
        a = z[f"CM_{i}_a_f"]
        component = (
            ParametricSOP(a.shape[1], a.shape[0], z[f"CM_{i}_b_f"].shape[0])
            if second_order
            else ParametricGAP(a.shape[1], a.shape[0])
        ).to(a.dtype)
        filters = list(component.parameters())
        with torch.no_grad():
            filters[0].copy_(a)
            if second_order:
                filters[1].copy_(z[f"CM_{i}_b_f"])
        components.append(component)

    noise = None if str(z["mode"]) == "test" else z["gamma"]
    logits = ops.gate_logits(leaves["gate_in"], leaves["gating_w"].T, leaves["gating_noise_w"].T, noise)
    logits.retain_grad()
    indices = ops.top_k_indices(logits, k)
    if any(word in name for word in RANDOM_CHOICE):
        indices = torch.stack([row.nonzero()[:, 0] for row in z["CM_index"]])
    gates = ops.top_k_gates(logits, indices)
    dense = ops.dense_gates(gates, indices, n)
    plan = ops.plan_dispatch(indices, n)
    parts = ops.dispatch(leaves["feat"].relu(), plan)
    outputs = [c(part) for c, part in zip(components, parts, strict=True) if len(part)]
    fusion = ops.combine(outputs, gates, plan)
    loss = float(z["loss_weight"]) * ops.balance_loss(dense)
    ((z["g_fusion"] * fusion).sum() + loss).backward()
    return SimpleNamespace(
        z=z, leaves=leaves, components=components, logits=logits, indices=indices, dense=dense, fusion=fusion, loss=loss
    )


@pytest.mark.parametrize("name", SAME)
def test_forward(name):
    r, bound = run(name), 1e-4 if "single" in name else 1e-10
    chosen = torch.zeros_like(r.z["CM_index"]).scatter(1, r.indices, True)
    assert torch.equal(chosen, r.z["CM_index"])
    assert relative_error(r.logits, r.z["H_x"]) < bound
    assert relative_error(r.dense, r.z["weights"]) < bound
    assert relative_error(r.dense.sum(0), r.z["sum_w"].flatten()) < bound
    assert relative_error(r.fusion, r.z["fusion"]) < bound
    assert abs(r.loss.item() - float(r.z["balance_loss"])) <= bound * max(1, float(r.z["balance_loss"]))


@pytest.mark.parametrize("name", SAME)
def test_backward(name):
    r, bound = run(name), 1e-4 if "single" in name else 1e-10
    assert relative_error(r.logits.grad, r.z["d_Hx"]) < bound
    for key in ("feat", "gate_in", "gating_w"):
        assert relative_error(r.leaves[key].grad, r.z[f"d_{key}"]) < bound, key
    found, expected = r.leaves["gating_noise_w"].grad, r.z["d_gating_noise_w"]
    if str(r.z["mode"]) == "test":  # no noise, no gradient
        assert found is None
    elif "overflow" in name:  # the official softplus loses digits where it saturates
        assert (found - expected).abs().max() < bound * max(1, expected.abs().max().item())
    else:
        assert relative_error(found, expected) < bound


@pytest.mark.parametrize("name", SAME)
def test_gradients_of_the_components(name):
    r, bound = run(name), 1e-4 if "single" in name else 1e-10
    for i, component in enumerate(r.components, start=1):
        for letter, parameter in zip("ab", component.parameters(), strict=False):
            expected = r.z[f"d_CM_{i}_{letter}_f"]
            if len(expected) == 0:  # got no image
                assert parameter.grad is None
            else:
                assert relative_error(parameter.grad, expected) < bound, f"CM_{i}_{letter}"


@pytest.mark.parametrize("name", [name for name in NAMES if "zero" in name])
def test_a_selected_score_of_exactly_zero_is_not_dropped_here(name):
    """Deliberate difference: the official code gives it weight 0, though the image still visits the component."""
    r = run(name)
    chosen = torch.zeros_like(r.z["CM_index"]).scatter(1, r.indices, True)
    assert torch.equal(chosen, r.z["CM_index"])
    assert relative_error(r.logits, r.z["H_x"]) < 1e-10
    dropped = (r.z["CM_index"] & (r.z["H_x"] == 0)).any(1)
    assert dropped.any()
    assert not dropped.all()
    assert relative_error(r.dense[~dropped], r.z["weights"][~dropped]) < 1e-10
    assert relative_error(r.fusion[~dropped], r.z["fusion"][~dropped]) < 1e-10
    expected: Tensor = torch.where(r.z["CM_index"], r.z["H_x"], -torch.inf).softmax(1)
    assert relative_error(r.dense[dropped], expected[dropped]) < 1e-10
    assert (r.z["weights"][r.z["CM_index"] & (r.z["H_x"] == 0)] == 0).all()
    assert (r.dense[r.z["CM_index"] & (r.z["H_x"] == 0)] > 0).all()
