"""A kernel must earn its place. Here the CPU stands in for the GPU, and Python functions for the kernels."""

import json
import logging
import time

import pytest
import torch

from compare import relative_error
from gmsop import ops
from gmsop.errors import ConfigError
from gmsop.ops import kernel_decisions, kernels
from gmsop.ops.mixture import component_conv_layers as layers
from gmsop.ops.second_order import pooling

SLOW = 0.02
"""Seconds that the slower way takes longer."""


class StandIn:
    """Kernels of `second_order_pool` and `component_conv` that compute right, unless told otherwise."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.called, self.wrong, self.slow, self.slow_library, self.fails = 0, "", False, True, False
        forward, backward = pooling._forward, pooling._backward
        conv, conv_backward = layers._forward, layers._backward

        def pool(x, num_iters):
            self.begin()
            out = forward(x, num_iters, False)[0]
            return out * 1.01 if self.wrong == "output" else out

        def pool_backward(x, grad, num_iters):
            self.begin()
            gradient = backward(x, *forward(x, num_iters, True), grad, num_iters)
            return gradient * 1.01 if self.wrong == "gradient" else gradient

        def conv_kernel(*arguments):
            self.begin()
            return conv(*arguments)

        def conv_kernel_backward(*arguments):
            self.begin()
            of_x, of_weights = conv_backward(*arguments)
            return of_x, of_weights * 1.01 if self.wrong == "gradient" else of_weights

        patch.setattr(pooling, "_forward_by_kernel", pool)
        patch.setattr(pooling, "_backward_by_kernel", pool_backward)
        patch.setattr(pooling, "_forward", lambda *a: self.library() or forward(*a))
        patch.setattr(layers, "_forward_by_kernel", conv_kernel)
        patch.setattr(layers, "_backward_by_kernel", conv_kernel_backward)
        patch.setattr(layers, "_forward", lambda *a: self.library() or conv(*a))
        patch.setattr(layers, "_backward", lambda *a: self.library() or conv_backward(*a))

    def begin(self) -> None:
        self.called += 1
        if self.fails:
            raise RuntimeError("PTX assembly aborted\nmore")
        time.sleep(SLOW if self.slow else 0)

    def library(self) -> None:
        time.sleep(SLOW if self.slow_library else 0)


@pytest.fixture
def stand_in(monkeypatch, tmp_path) -> StandIn:
    monkeypatch.setattr(kernels, "DEVICE_TYPES", ("cpu",))
    monkeypatch.setattr(kernels, "usable", lambda device: True)
    monkeypatch.setattr(kernels, "_now", {})
    monkeypatch.setattr(kernels, "REPETITIONS", 2)
    monkeypatch.setenv("GMSOP_CACHE", str(tmp_path))
    monkeypatch.delenv("GMSOP_KERNELS", raising=False)
    kernels._before.cache_clear()
    yield StandIn(monkeypatch)
    kernels._before.cache_clear()


def forget() -> None:
    """What a new process begins with."""
    kernels._now.clear()
    kernels._before.cache_clear()


def pool(images: int = 3) -> list[torch.Tensor]:
    x = torch.randn(images, 5, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = ops.second_order_pool(x)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), x)]


def conv(module=layers) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 4, 6, generator=generator), torch.randn(5, 7, 4, generator=generator)
    chosen = torch.tensor([0, 1, 2, 3, 0, 4])
    out = module.layer_forward(x, list(weight), chosen)
    return [out, *module.layer_backward(out.sin(), out, x, list(weight), chosen, True, True)]


@pytest.mark.parametrize("compute", [pool, conv])
@pytest.mark.parametrize(
    ("changes", "kernel", "reason"),
    [
        ({}, True, ""),
        ({"slow": True, "slow_library": False}, False, ""),
        ({"wrong": "gradient"}, False, "the kernel is wrong: 1.0e-02 from the library path"),
        ({"fails": True}, False, "the kernel does not run: RuntimeError: PTX assembly aborted"),
    ],
    ids=["right and fast", "slow", "wrong gradient", "does not compile"],
)
def test_the_faster_right_one_is_taken(stand_in, compute, changes, kernel, reason, caplog):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "DEVICE_TYPES", ())
        expected = compute()
    vars(stand_in).update(changes)
    with caplog.at_level(logging.INFO, "gmsop"):
        found = compute()
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) < 1e-5
    decision = list(kernels._now.values())[-1]  # of the call with a gradient
    assert (decision.kernel, decision.reason) == (kernel, reason)
    assert len(caplog.records) == len(kernels._now)
    assert all(r.levelname == "INFO" for r in caplog.records)
    forget()  # and a new process knows it, without trying again
    stand_in.called = 0
    with caplog.at_level(logging.INFO, "gmsop"):
        compute()
    assert not kernels._now
    assert stand_in.called == 2 * kernel + (compute is conv and changes.get("wrong") == "gradient")


def test_a_wrong_output_is_found_without_a_gradient(stand_in):
    stand_in.wrong = "output"
    ops.second_order_pool(torch.randn(3, 5, 16))
    (decision,) = kernels._now.values()
    assert decision.reason.startswith("the kernel is wrong")
    assert list(kernels._now) == [
        ("cpu", "second_order_pool (images 4, channels 5, positions 16, iterations 3), float32, tf32x3")
    ]


def test_calls_of_nearly_one_size_are_decided_once(stand_in):
    for images in (5, 6, 7, 8):
        pool(images)
    assert len(kernels._now) == 1
    pool(9)
    assert len(kernels._now) == 2


def test_the_environment_overrides(stand_in, monkeypatch):
    monkeypatch.setenv("GMSOP_KERNELS", "off")
    pool()
    assert stand_in.called == 0
    monkeypatch.setenv("GMSOP_KERNELS", "on")
    pool()
    assert stand_in.called == 2
    assert not kernels._now
    monkeypatch.setenv("GMSOP_KERNELS", "yes")
    with pytest.raises(ConfigError, match="GMSOP_KERNELS must be auto, on or off, got 'yes'"):
        pool()


def test_nothing_is_timed_where_somebody_looks_on(stand_in):
    """In deterministic mode, in compiled code, under a mode that counts: what is known, else the library path."""
    compiled = torch.compile(ops.second_order_pool, backend="eager", fullgraph=True)
    x = torch.randn(3, 5, 16)

    def everything() -> None:
        torch.use_deterministic_algorithms(True)
        try:
            ops.second_order_pool(x)
        finally:
            torch.use_deterministic_algorithms(False)
        torch._dynamo.reset()
        compiled(x)
        with torch.utils.flop_counter.FlopCounterMode(display=False):
            ops.second_order_pool(x)

    everything()
    assert not kernels._now
    assert stand_in.called == 0
    ops.second_order_pool(x)
    stand_in.called = 0
    everything()
    assert stand_in.called == 3
    pool()
    stand_in.called = 0
    x.requires_grad_()
    everything()
    assert stand_in.called == 3


def test_numbers_that_decide_nothing(stand_in):
    """Equal pixels have no covariance, and NaN compares with nothing: the next call decides."""
    for x in (torch.ones(3, 5, 16), torch.full((3, 5, 16), torch.nan), torch.randn(0, 5, 16)):
        ops.second_order_pool(x)
    assert not kernels._now
    ops.second_order_pool(torch.randn(3, 5, 16))
    assert len(kernels._now) == 1


def test_no_memory_left_for_a_trial(stand_in, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(pooling, "_forward_by_kernel", full)
    ops.second_order_pool(torch.randn(3, 5, 16))
    assert not kernels._now


def test_a_trial_draws_no_random_number(stand_in):
    before = torch.get_rng_state()
    pool()
    conv()
    assert kernels._now
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"versions": 1}', '{"decisions": {}}', "[" * 100_000])
def test_a_damaged_file_of_decisions_counts_for_nothing(stand_in, content):
    file = kernel_decisions.decisions_file("cpu")
    file.parent.mkdir(parents=True)
    file.write_text(content)
    ops.second_order_pool(torch.randn(3, 5, 16))
    assert len(json.loads(file.read_text())["decisions"]) == 1


def test_decisions_of_other_versions_and_nonsense_count_for_nothing(stand_in):
    x = torch.randn(3, 5, 16)
    ops.second_order_pool(x)
    file = kernel_decisions.decisions_file("cpu")
    content = json.loads(file.read_text())
    (call,) = content["decisions"]
    for change in ({"versions": {"torch": "1.0"}}, {"decisions": {call: {"kernel": 1}}}, {"decisions": {call: []}}):
        file.write_text(json.dumps(content | change))
        forget()
        assert kernel_decisions.remembered("cpu") == {}
        ops.second_order_pool(x)
        assert list(kernel_decisions.remembered("cpu")) == [call]


def test_a_cache_that_cannot_be_written_costs_nothing(stand_in, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GMSOP_CACHE", str(tmp_path / "file"))
    pool()
    assert len(kernels._now) == 1
