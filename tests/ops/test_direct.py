"""Inference on a CPU goes round PyTorch's dispatcher, and nobody notices."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from gmsop import ops
from gmsop.nn import GatedMixture
from gmsop.ops.observers import is_plain_inference


def head() -> GatedMixture:
    mixture = GatedMixture.second_order(8, 4, 2, hidden_dim=8, reduced_dim=6, gate_dims=(8, 6)).eval()
    torch.nn.init.normal_(mixture.gate.weight)
    return mixture


@torch.no_grad()
def operators_seen(run) -> set[str]:
    """Names of gmsop's operators that the profiler saw."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return {event.key for event in profile.key_averages() if event.key.startswith("gmsop::")}


def test_the_same_numbers_with_and_without_the_dispatcher():
    mixture, x = head(), torch.randn(3, 8, 5, 5)
    assert operators_seen(lambda: mixture(x)) == set()
    with torch.inference_mode():
        direct = mixture(x)
    assert torch.equal(direct, mixture(x))  # with a gradient


@torch.no_grad()
@pytest.mark.parametrize("num_iters", [3, 5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_outside(dtype, num_iters):
    x = torch.randn(3, 6, 5, 5)
    with torch.autocast("cpu", dtype):
        found = ops.second_order_pool(x, num_iters)
    assert found.dtype == torch.float32
    assert torch.equal(found, ops.second_order_pool(x, num_iters))


def test_whoever_looks_on_sees_the_operators():
    x = torch.randn(3)
    assert is_plain_inference(x, torch.nn.Parameter(x))
    assert not is_plain_inference(x, x.to("meta"))
    assert not is_plain_inference(x, x.as_subclass(type("Mine", (torch.Tensor,), {})))
    seen = {}

    def look(name):
        def function(x):
            seen[name] = is_plain_inference(torch.ones(2))
            return x.clone()

        return function

    torch.vmap(look("vmap"))(x)
    torch.func.jvp(look("jvp"), (x,), (x,))
    torch.func.functionalize(look("functionalize"))(x)
    make_fx(look("fx"))(x)
    with FakeTensorMode():
        look("fake")(torch.ones(2))
    with FlopCounterMode(display=False):
        look("flops")(x)
    assert seen == dict.fromkeys(seen, False)
    assert len(seen) == 6


@torch.no_grad()
def test_operations_are_counted_as_with_a_gradient():
    mixture, x = head(), torch.randn(3, 8, 5, 5)
    totals = []
    for gradient in (False, True):
        with torch.set_grad_enabled(gradient), FlopCounterMode(display=False) as counter:
            mixture(x)
        totals.append({str(name) for name in counter.get_flop_counts()["Global"]} | {counter.get_total_flops()})
    assert totals[0] == totals[1]
    assert any("component_conv" in str(name) for name in totals[0])
