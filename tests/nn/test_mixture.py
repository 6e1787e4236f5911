import copy

import pytest
import torch
from torch import nn

import gmsop
from compare import DEVICES, relative_error
from gmsop.errors import ConfigError
from gmsop.nn import Fusible, GatedMixture, ISqrtCovPool, ParametricGAP, ParametricSOP, TopKGate, bank
from gmsop.nn.bank import bank_of
from gmsop.ops.mixture import reference as mixture_reference
from gmsop.ops.second_order import reference


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
    expected, weights = mixture_reference.mixture(x, head.gate(x).logits, k, list(head.components))
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


@pytest.mark.skipif(DEVICES == ["cpu"], reason="for the kernels of a GPU")
@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("second_order", [True, False])
def test_equals_the_loop_over_images_in_float32_on_a_gpu(k, second_order):
    head = mixture(5, k, second_order).eval()
    x = torch.randn(9, 6, 4, 3, dtype=torch.double, requires_grad=True)
    expected, _ = mixture_reference.mixture(x, head.gate(x).logits, k, list(head.components))
    probe = torch.randn_like(expected)
    inputs = [x, *head.components.parameters()]
    gradients = torch.autograd.grad((expected * probe).sum(), inputs, materialize_grads=True)
    on_gpu, of_gpu = copy.deepcopy(head).float().cuda(), x.detach().float().cuda().requires_grad_()
    found = on_gpu(of_gpu)
    assert relative_error(found.cpu(), expected) < 1e-4
    loss = (found * probe.float().cuda()).sum()
    for a, b in zip(torch.autograd.grad(loss, [of_gpu, *on_gpu.components.parameters()]), gradients, strict=True):
        assert (a.cpu() - b).norm() <= 1e-3 * b.norm() + 1e-6


@pytest.mark.skipif(DEVICES == ["cpu"], reason="for a GPU")
@pytest.mark.parametrize("second_order", [True, False])
def test_a_cuda_graph_holds_both_passes(second_order):
    """Which it could not if anything waited for the host."""
    head = mixture(5, 2, second_order).float().cuda()
    x = torch.randn(9, 6, 4, 3, device="cuda", requires_grad=True)
    other = torch.randn_like(x)
    inputs = [x, *head.parameters()]

    def passes() -> list[torch.Tensor]:
        out = head(x)
        return [out, *torch.autograd.grad(out.square().sum(), inputs, materialize_grads=True)]

    for training in (True, False):  # in training with the gate's noise, of which no two runs have the same
        head.train(training)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                passes()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = passes()
    with torch.no_grad():
        x.copy_(other)
    graph.replay()
    for found, expected in zip(captured, passes(), strict=True):
        assert relative_error(found, expected) < 1e-6


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
    assert reference.newton_schulz_sqrt(reference.covariance_pool(x)).isnan().all()


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


@pytest.mark.parametrize("second_order", [True, False])
def test_the_bank_equals_one_call_per_component(second_order):
    head = mixture(16, 3, second_order).eval()
    x = torch.randn(4, 6, 4, 3, dtype=torch.double, requires_grad=True)
    assert bank_of(head.components) is not None
    inputs = [x, *head.parameters()]
    results = []
    for forward in (head, lambda x: head._one_by_one(x, head.gate(x))):
        out = forward(x)
        gradients = torch.autograd.grad(out.sin().sum(), inputs, allow_unused=True)
        results.append([out, *(torch.zeros(()) if g is None else g for g in gradients)])
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < 1e-10


def test_a_bank_that_somebody_changed_is_called_one_by_one():
    def change(head: GatedMixture, what: str) -> None:
        first = head.components[0]
        if what == "hook":
            first.conv1.register_forward_hook(lambda *_: None)
        elif what == "method":
            first.pool.forward = first.pool.forward
        elif what == "submodule":
            first.conv2 = nn.Sequential(first.conv2, nn.Identity())
        elif what == "bias":
            first.conv1 = nn.Conv2d(6, 7, 1).double()
        elif what == "kernel size":
            first.conv1 = nn.Conv2d(6, 7, 3, padding=1, bias=False).double()
        elif what == "stride everywhere":
            for component in head.components:
                component.conv1.stride = (2, 2)
        elif what == "reduction everywhere":
            for component in head.components:
                component.pool.reduce = nn.Conv2d(5, 5, 1, bias=False).double()
        elif what == "width":
            head.components[0] = ParametricSOP(6, 9, 5).double()
        elif what == "iterations":
            first.pool.num_iters = 5
        elif what == "subclass":
            forward = {"forward": lambda self, x: 2 * ParametricSOP.forward(self, x)}
            head.components[0] = type("Mine", (ParametricSOP,), forward)(6, 7, 5).double()

    x = torch.randn(2, 6, 4, 3, dtype=torch.double)
    changes = [
        "hook",
        "method",
        "submodule",
        "bias",
        "kernel size",
        "stride everywhere",
        "reduction everywhere",
        "width",
    ]
    for what in [*changes, "iterations", "subclass"]:
        head = mixture(3, 2).eval()
        change(head, what)
        assert bank_of(head.components) is None, what
        assert head(x).shape == (2, 15)


class LogPool(ISqrtCovPool):
    """A pooling with an option that changes what it computes."""

    def __init__(self, channels: int, root: str = "exact") -> None:
        super().__init__(channels)
        self.root = root

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        vectors = super().forward(x)
        return vectors.abs().log1p() if self.root == "log" else vectors


@pytest.mark.parametrize("how", ["an option of the layer itself", "a subclass", "options that differ"])
def test_a_bank_computes_what_its_pooling_computes(how, monkeypatch):
    head = mixture(6, 3).eval()
    if how == "an option of the layer itself":  # as if `ISqrtCovPool` had grown it: class and file stay the same
        forward = ISqrtCovPool.forward
        monkeypatch.setattr(ISqrtCovPool, "forward", lambda pool, x: getattr(pool, "power", 1) * forward(pool, x))
        for component in head.components:
            component.pool.power = 3
    else:
        for n, component in enumerate(head.components):
            component.pool = LogPool(5, "exact" if how == "options that differ" and n == 4 else "log")
    assert (bank_of(head.components) is None) == (how == "options that differ")
    x = torch.randn(5, 6, 4, 3, dtype=torch.double, requires_grad=True)
    inputs = [x, *head.components.parameters()]
    results = []
    for way in (head._mix, head._one_by_one):
        out = way(x, head.gate(x))
        results.append([out, *torch.autograd.grad(out.sin().sum(), inputs)])
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < 1e-10


def test_a_component_of_ones_own_that_says_what_it_computes_is_fused():
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only, self.pool = nn.Conv2d(6, 4, 1, bias=False), LogPool(4, "log")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.pool(self.only(x).relu())

        def fusible(self) -> Fusible:
            return Fusible((self.only,), self.pool)

    head = GatedMixture([Mine() for _ in range(4)], TopKGate(6, 4, 2, dims=(4,))).double().eval()
    nn.init.normal_(head.gate.weight)
    x = torch.randn(5, 6, 4, 3, dtype=torch.double)
    assert bank_of(head.components) is not None
    assert relative_error(head(x), head._one_by_one(x, head.gate(x))) < 1e-12


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("images", [1, 3])  # at a time
def test_large_batches_are_taken_in_parts_without_a_gradient(images, second_order, monkeypatch):
    head = mixture(4, 2, second_order).eval()
    x = torch.randn(7, 6, 4, 3, dtype=torch.double)
    whole = head(x)
    monkeypatch.setattr(bank, "REUSED_BYTES", images * 2 * 5 * 12 * 8)
    calls = []
    convolve = bank.component_conv
    monkeypatch.setattr(bank, "component_conv", lambda x, *rest: calls.append(len(x)) or convolve(x, *rest))
    head(x)
    with torch.no_grad():
        assert relative_error(head(x), whole) < 1e-14
    assert calls == [7, *{1: [1] * 7, 3: [3, 3, 1]}[images]]


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("training", [pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.parametrize("name", [pytest.param("gm_gap_4_2_tiny", marks=pytest.mark.slow), "gm_sop_4_2_tiny"])
def test_a_whole_model_compiles_without_a_graph_break(name, training, device):
    model = gmsop.create_model(name, 10).train(training).to(device)
    nn.init.normal_(model.pool.gate.weight)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images = torch.randn(3, 3, 64, 64, device=device)
    results = []
    for f in (model, compiled):
        torch.manual_seed(3)
        logits, routing = f(images, return_routing=True)
        gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()), allow_unused=True)
        results.append([logits, routing.gates, routing.indices, *(g for g in gradients if g is not None)])
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < 1e-4


@pytest.mark.parametrize("name", ["gm_sop_4_2_tiny", pytest.param("gm_gap_4_2_tiny", marks=pytest.mark.slow)])
def test_a_whole_model_exports_for_any_batch(name):
    """As standard operators: who loads the program needs no gmsop."""
    model = gmsop.create_model(name, 10).eval()
    nn.init.normal_(model.pool.gate.weight)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.randn(3, 3, 32, 32),), dynamic_shapes={"x": {0: batch}})
    assert not [node for node in program.graph.nodes if "gmsop" in str(node.target)]
    for count in (1, 5):
        images = torch.randn(count, 3, 32, 32)
        assert relative_error(program.module()(images), model(images)) < 1e-5


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_trace_takes_any_batch_and_can_be_trained(grad, monkeypatch):
    monkeypatch.setattr(gmsop.nn.bank, "REUSED_BYTES", 1 << 12)  # images go one by one where no gradient is wanted
    head = GatedMixture.second_order(8, 4, 2, hidden_dim=8, reduced_dim=6, gate_dims=(8, 6)).eval()
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(head, torch.randn(2, 8, 5, 5))
    x = torch.randn(7, 8, 5, 5)
    assert relative_error(traced(x), head(x)) < 1e-6
    gradients = [torch.autograd.grad(f(x).square().sum(), head.components[0].conv1.weight) for f in (head, traced)]
    assert relative_error(*gradients[0], *gradients[1]) < 1e-6


def test_weights_that_are_plain_attributes():
    """As `DataParallel`'s replicas have them, and FSDP where it flattens parameters."""
    head = GatedMixture.second_order(8, 4, 2, hidden_dim=8, reduced_dim=6, gate_dims=(8, 6)).eval()
    x = torch.randn(2, 8, 5, 5)
    expected = head(x)
    for component in head.components:
        for conv in (component.conv1, component.conv2):
            weight = conv.weight.detach()
            del conv._parameters["weight"], conv._parameters["bias"]
            conv.weight, conv.bias = weight, None
    assert torch.equal(head(x), expected)
    head.components[0].conv1.bias = torch.ones(8)
    assert not torch.equal(head(x), expected)


@pytest.mark.parametrize("second_order", [True, False])
def test_gradients_per_image_by_function_transforms(second_order):
    make = GatedMixture.second_order if second_order else GatedMixture.first_order
    args = (8, 4, 2, 6, 5, (4,)) if second_order else (8, 4, 2, 6, (4,))
    mixture = make(*args).double().eval()
    nn.init.normal_(mixture.gate.weight)
    parameters = {name: p.detach() for name, p in mixture.named_parameters()}
    x = torch.randn(3, 8, 4, 4, dtype=torch.double)

    def loss(parameters, image):
        return torch.func.functional_call(mixture, parameters, (image[None],)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for i, image in enumerate(x):
        expected = torch.autograd.grad(mixture(image[None]).square().sum(), mixture.parameters(), allow_unused=True)
        expected = [
            p.new_zeros(p.shape) if g is None else g for p, g in zip(parameters.values(), expected, strict=True)
        ]
        gradients = [torch.cat([g.flatten() for g in every]) for every in ([g[i] for g in found.values()], expected)]
        assert relative_error(*gradients) < 1e-12
