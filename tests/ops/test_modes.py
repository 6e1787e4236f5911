"""The operators inside autocast and inside torch.compile."""

import pytest
import torch

from compare import relative_error
from gmsop import ops
from gmsop.nn import GatedMixture
from gmsop.ops.precision import product_precision
from gmsop.ops.second_order import reference


def second_order(x: torch.Tensor) -> torch.Tensor:
    return ops.triu_vectorize(ops.newton_schulz_sqrt(ops.covariance_pool(x), 3))


def gate(features: torch.Tensor, weight: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    logits = ops.gate_logits(features, weight, weight, noise)
    indices = ops.top_k_indices(logits, 2)
    return ops.dense_gates(ops.top_k_gates(logits, indices), indices, 5)


@pytest.fixture
def settings_of_products():
    yield torch.backends
    torch.set_float32_matmul_precision("highest")
    torch.backends.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "none"  # as they are at the start


def test_kernels_multiply_as_products_are_asked_to(settings_of_products):
    for asked, precision in (("medium", "bf16"), ("high", "tf32"), ("highest", "tf32x3")):
        torch.set_float32_matmul_precision(asked)
        assert product_precision() == precision


def test_kernels_follow_the_newer_settings_too(settings_of_products):
    """Where the older function, asked for its own, raises."""
    for place in (settings_of_products, settings_of_products.cuda.matmul):
        for asked, precision in (("tf32", "tf32"), ("ieee", "tf32x3"), ("none", "tf32x3")):
            place.fp32_precision = asked
            assert product_precision() == precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_touch_second_order_statistics(dtype):
    x = torch.randn(3, 16, 6, 6, requires_grad=True)
    with torch.autocast("cpu", dtype):
        found = second_order(x)
        found.square().sum().backward()  # a backward pass inside the context must not lose digits either
    exact = x.detach().double().requires_grad_()
    expected = reference.triu_vectorize(reference.newton_schulz_sqrt(reference.covariance_pool(exact)))
    expected.square().sum().backward()
    assert found.dtype == torch.float32
    assert relative_error(found, expected) < 1e-5
    assert relative_error(x.grad, exact.grad) < 1e-5


def test_autocast_does_not_round_the_gate():
    features, weight, noise = torch.randn(4, 30), torch.randn(5, 30), torch.randn(4)
    with torch.autocast("cpu", torch.bfloat16):
        found = ops.gate_logits(features, weight, weight, noise)
    assert torch.equal(found, ops.gate_logits(features, weight, weight, noise))


@pytest.mark.parametrize("root", [ops.newton_schulz_sqrt, ops.eigh_sqrt])
def test_compiles_without_a_graph_break(root):
    def pool(x: torch.Tensor) -> torch.Tensor:
        return ops.triu_vectorize(root(ops.covariance_pool(x)))

    x = torch.randn(2, 8, 5, 5, dtype=torch.double, requires_grad=True)
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    probe = torch.randn(2, 36, dtype=torch.double)
    gradients = []
    for f in (pool, compiled):
        (gradient,) = torch.autograd.grad((f(x) * probe).sum(), x)
        gradients.append(gradient)
    assert relative_error(compiled(x), pool(x)) < 1e-12
    assert relative_error(*gradients) < 1e-10


@pytest.mark.slow
def test_second_order_pooling_compiles_with_inductor():
    x = torch.randn(2, 8, 5, 5, requires_grad=True)
    compiled = torch.compile(second_order, fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = compiled(x)
    (gradient,) = torch.autograd.grad(found.square().sum(), x)
    (expected,) = torch.autograd.grad(second_order(x).square().sum(), x)
    assert relative_error(found, second_order(x)) < 1e-5
    assert relative_error(gradient, expected) < 1e-5


def test_the_gate_compiles_without_a_graph_break():
    inputs = torch.randn(4, 7), torch.randn(5, 7), torch.randn(4)
    assert relative_error(torch.compile(gate, fullgraph=True, backend="aot_eager")(*inputs), gate(*inputs)) < 1e-6


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_compiled_head_keeps_the_operators_and_an_exported_one_shows_their_parts(strict, ties):
    head = GatedMixture.second_order(8, 4, 2, hidden_dim=8, reduced_dim=6, gate_dims=(8, 6)).eval()
    if not ties:
        torch.nn.init.normal_(head.gate.weight)
    x = torch.randn(2, 8, 5, 5)
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    torch.compile(head, fullgraph=True, backend=keep)(x)
    exported = torch.export.export(head, (x,), strict=strict)
    for graph, expected in ((graphs[0].graph, {"second_order_pool", "component_conv"}), (exported.graph, set())):
        used = {str(node.target) for node in graph.nodes if "gmsop" in str(node.target)}
        assert {name for name in ("second_order_pool", "component_conv") if any(name in u for u in used)} == expected
    assert relative_error(exported.module()(x), head(x)) < 1e-5


def test_forward_mode_is_right_or_refused():
    """A custom operator would give no tangent, and not say so."""
    x, direction = torch.randn(2, 3, 4, 4, dtype=torch.double), torch.randn(2, 3, 4, 4, dtype=torch.double)
    mixture = GatedMixture.first_order(3, 4, 2, 5, (4,)).double().eval()
    torch.nn.init.normal_(mixture.gate.weight)
    step = 1e-6 * direction
    for function in (mixture, ops.second_order_pool):
        _, tangent = torch.func.jvp(function, (x,), (direction,))
        assert relative_error(tangent, (function(x + step) - function(x - step)) / 2e-6) < 1e-6
    with torch.autograd.forward_ad.dual_level():
        with pytest.raises(NotImplementedError, match="forward mode AD"):
            ops.second_order_pool(torch.autograd.forward_ad.make_dual(x, direction))
        # Of what is no dual number all is as ever.
        assert torch.equal(ops.second_order_pool(x), ops.second_order_pool(x.clone()))


def test_function_transforms_give_the_same_gradients():
    x = torch.randn(3, 4, 9, dtype=torch.double)
    x[1] = 1.0  # a constant map
    found = torch.func.vmap(torch.func.grad(lambda one: ops.second_order_pool(one[None]).square().sum()))(x)
    x.requires_grad_()
    vectors = ops.second_order_pool(x)
    (expected,) = torch.autograd.grad(vectors.square().sum(), x, retain_graph=True)
    assert relative_error(found, expected) < 1e-12
    hessian = torch.func.hessian(lambda one: ops.second_order_pool(one[None]).sum())(x[0].detach())
    exact = torch.autograd.functional.hessian(
        lambda one: reference.triu_vectorize(reference.newton_schulz_sqrt(reference.covariance_pool(one[None]))).sum(),
        x[0].detach(),
    )
    assert relative_error(hessian, exact) < 1e-12
    jacobian = torch.func.jacrev(ops.second_order_pool)(x.detach())
    row = torch.autograd.grad(vectors[2, 5], x)[0]
    assert relative_error(jacobian[2, 5], row) < 1e-12
