"""The optimisers of recipes: the published SGD to the bit, AdamW, timm's others; what `stem_scale` means to each."""

import copy

import pytest
import torch
from tiny import TINY, recipe
from torch import nn

import gmsop
from gmsop.errors import ConfigError, UnknownNameError
from gmsop.runs.metrics import read_metrics
from gmsop.training.optimizer import create_optimizer, optimizer_of, set_step
from gmsop.training.optimizers import OPTIMIZERS
from gmsop.training.run import train


def a_model() -> nn.Module:
    torch.manual_seed(0)
    return gmsop.create_model("gap_tiny", 4)


def trained(model, optimizer, steps=5, change=None):
    torch.manual_seed(1)
    for step in range(steps):
        if change:
            change(step)
        optimizer.zero_grad()
        model(torch.randn(6, 3, 16, 16)).square().mean().backward()
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_is_torchs_to_the_bit(nesterov):
    settings = recipe(nesterov=nesterov, weight_decay=0.01, classifier_lr_scale=0.5, stem_scale=2)
    model, other = a_model(), a_model()
    found = create_optimizer(model, settings)
    groups = [
        {"params": group["params"], "lr": group["lr"]} for group in create_optimizer(other, settings).param_groups
    ]
    expected = torch.optim.SGD(groups, momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    assert type(found) is torch.optim.SGD
    assert [g["lr"] for g in found.param_groups] == [0.05, 0.05 / 4, 0.025]
    states = trained(model, found), trained(other, expected)
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_adamw_is_torchs_to_the_bit():
    settings = recipe(optimizer="adamw", optimizer_args={"betas": [0.8, 0.95], "eps": 1e-6}, lr=1e-3, weight_decay=0.1)
    model, other = a_model(), a_model()
    found = create_optimizer(model, settings)
    assert type(found) is torch.optim.AdamW
    set_step(found, settings, 0.5, 0.85)
    expected = torch.optim.AdamW(other.parameters(), lr=5e-4, betas=(0.85, 0.95), eps=1e-6, weight_decay=0.1)
    states = trained(model, found), trained(other, expected)
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


@pytest.mark.parametrize(("name", "decay"), [("sgd", 0.0), ("adamw", 0.1)])
def test_a_scaled_stem_learns_the_same_function(name, decay):
    """Filters divided by s on inputs multiplied by s: the network's answers stay the same, step after step."""
    scale, answers = 8.0, []
    for divided in (1.0, scale):
        settings = recipe(optimizer=name, optimizer_args={"eps": 1e-14} if name == "adamw" else {}, lr=1e-3,
                          weight_decay=decay, stem_scale=divided)  # fmt: skip
        model = a_model().double()
        with torch.no_grad():
            model.backbone.stem.conv.weight.div_(divided)
        optimizer = create_optimizer(model, settings)
        torch.manual_seed(1)
        for step in range(6):
            x = torch.randn(6, 3, 16, 16, dtype=torch.double)
            set_step(optimizer, settings, 1 - 0.1 * step, 0.9)
            optimizer.zero_grad()
            out = model(x * divided)
            out.square().mean().backward()
            optimizer.step()
        answers.append(out.detach())
    assert torch.allclose(*answers, rtol=1e-6, atol=1e-9)
    if name == "adamw":  # and SGD's square would be the wrong factor
        assert OPTIMIZERS["adamw"].rescaled(1.0, 0.1, scale) != OPTIMIZERS["sgd"].rescaled(1.0, 0.1, scale)


def test_an_optimiser_of_timm_by_its_name(small_set, tmp_path):
    settings = recipe(optimizer="lion", optimizer_args={"betas": [0.9, 0.98]}, lr=1e-3, epochs=[1])
    run = train(settings, small_set, tmp_path / "x")
    assert read_metrics(run.folder / "metrics.csv")[0]["lr"] == 1e-3
    assert type(create_optimizer(a_model(), settings)).__name__ == "Lion"


@pytest.mark.parametrize("schedule", ["cosine", pytest.param("one_cycle", marks=pytest.mark.slow)])
def test_adamw_trains_and_goes_on_to_the_bit(small_set, tmp_path, monkeypatch, schedule):
    from gmsop.training.task import TrainingTask

    settings = recipe(optimizer="adamw", lr=2e-3, schedule=schedule, checkpoint_every=1, epochs=[2])
    whole = train(settings, small_set, tmp_path / "whole")
    start = TrainingTask.on_train_batch_start

    def stop(task, batch, index):
        if (task.current_epoch, index) == (1, 1):
            raise RuntimeError("stopped")
        start(task, batch, index)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        patch.setattr(TrainingTask, "on_train_batch_start", stop)
        train(settings, small_set, tmp_path / "x")
    resumed = train(settings, small_set, tmp_path / "x", tmp_path / "x")
    assert (whole.folder / "metrics.csv").read_text() == (resumed.folder / "metrics.csv").read_text()
    states = [gmsop.load_model(run.folder / "last.ckpt").state_dict() for run in (whole, resumed)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"optimizer": "adamww"}, UnknownNameError, "unknown optimizer 'adamww'. Nearest: adamw"),
        ({"optimizer": "lion", "stem_scale": 60}, ConfigError, "stem_scale 60 with optimizer lion"),
        ({"optimizer_args": {"bta": 1}}, ConfigError, "optimizer sgd with"),
        ({"optimizer_args": {"eps": 1e-3}}, ConfigError, "optimizer sgd has no argument eps"),
        ({"optimizer": "adamw", "optimizer_args": {"betas": [2, 3]}}, ConfigError, "optimizer adamw with"),
        ({"optimizer": "adamw", "optimizer_args": 5}, ConfigError, "optimizer_args must be a mapping"),
    ],
)
def test_what_cannot_work(changes, error, words, small_set, tmp_path):
    with pytest.raises(error, match=words):
        train(recipe(**changes), small_set, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_another_optimiser_is_another_recipe(small_set, tmp_path):
    train(recipe(epochs=[1]), small_set, tmp_path / "x")
    with pytest.raises(ConfigError, match="optimizer sgd -> adamw"):
        train(recipe(epochs=[2], optimizer="adamw"), small_set, tmp_path / "x", tmp_path / "x")


def test_what_is_known_of_optimisers():
    assert OPTIMIZERS.names() == ["adamw", "sgd"]
    assert optimizer_of(recipe()).rescaled(0.1, 1e-4, 60) == (0.1 / 3600, 1e-4)
    assert copy.deepcopy(TINY)["stem_scale"] == 1
