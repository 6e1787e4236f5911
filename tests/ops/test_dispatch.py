import pytest
import torch

from compare import relative_error
from gmsop import ops
from gmsop.ops.mixture import reference


@pytest.mark.parametrize(("batch", "n", "k"), [(1, 1, 1), (1, 5, 2), (6, 4, 4), (7, 9, 3), (5, 16, 8)])
def test_routing_equals_the_loop_over_images(batch, n, k):
    x = torch.randn(batch, 3, 4, dtype=torch.double, requires_grad=True)
    logits = torch.randn(batch, n, dtype=torch.double, requires_grad=True)
    weights = [torch.randn(12, 6, dtype=torch.double, requires_grad=True) for _ in range(n)]
    components = [lambda t, w=w: (t.flatten(1) @ w).tanh() for w in weights]

    indices = ops.top_k_indices(logits, k)
    plan = ops.plan_dispatch(indices, n)
    parts = ops.dispatch(x, plan)
    assert [len(part) for part in parts] == torch.bincount(indices.flatten(), minlength=n).tolist()
    found = ops.combine(
        [c(part) for c, part in zip(components, parts, strict=True)], ops.top_k_gates(logits, indices), plan
    )
    expected, _ = reference.mixture(x, logits, k, components)

    assert relative_error(found, expected) < 1e-13
    probe = torch.randn_like(expected)
    inputs = [x, logits, *weights]
    for a, b in zip(
        torch.autograd.grad((found * probe).sum(), inputs, materialize_grads=True),
        torch.autograd.grad((expected * probe).sum(), inputs, materialize_grads=True),
        strict=True,
    ):
        assert relative_error(a, b) < 1e-12


def test_an_image_only_goes_where_it_chose_to():
    indices = torch.tensor([[2, 0], [2, 3], [0, 2]])
    plan = ops.plan_dispatch(indices, 5)
    assert [images.tolist() for images in plan.images] == [[0, 2], [], [0, 1, 2], [1], []]
