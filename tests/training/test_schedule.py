"""The closed forms against torch's schedulers, which add up step by step."""

import pytest
import torch
from tiny import recipe
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, OneCycleLR

from gmsop.training.schedule import rate_and_momentum


def ours(settings, steps_per_epoch):
    return [
        rate_and_momentum(settings, epoch, step, steps_per_epoch)
        for epoch in range(settings.total_epochs)
        for step in range(steps_per_epoch)
    ]


def theirs(make, count):
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = make(optimizer)
    found = []
    for _ in range(count):
        group = optimizer.param_groups[0]
        found.append((group["lr"], group["momentum"]))
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("epochs", "steps"), [(28, 47), (1, 1), (1, 2), (3, 1), (5, 2), (10, 1)])
def test_one_cycle(epochs, steps):
    expected = theirs(lambda o: OneCycleLR(o, 1.0, total_steps=epochs * steps), epochs * steps)
    for a, b in zip(ours(recipe(epochs=epochs, schedule="one_cycle"), steps), expected, strict=True):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-12)


def test_cosine():
    expected = theirs(lambda o: CosineAnnealingLR(o, 20), 20)
    found = ours(recipe(epochs=4, schedule="cosine"), 5)
    assert [rate for rate, _ in found] == pytest.approx([rate for rate, _ in expected], abs=1e-12)
    assert {momentum for _, momentum in found} == {0.9}


def test_step():
    expected = [r for r, _ in theirs(lambda o: MultiStepLR(o, [4, 6], 0.1), 7) for _ in range(3)]
    assert [rate for rate, _ in ours(recipe(epochs=[4, 2, 1]), 3)] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_warmup_is_linear_and_then_over(schedule):
    warm = [rate for rate, _ in ours(recipe(epochs=6, schedule=schedule, warmup_epochs=1.5), 4)]
    assert warm[:6] == pytest.approx([(i + 1) / 7 for i in range(6)])
    assert warm[6] == 1
    assert warm[6:] == sorted(warm[6:], reverse=True)
    assert warm[-1] > 0
