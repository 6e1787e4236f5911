"""The balance loss in training loops that see the logits alone, and rates with which they do not diverge."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gmsop
from compare import relative_error
from gmsop.errors import ConfigError
from gmsop.ops import balance_loss
from gmsop.training.recipe import Recipe
from gmsop.training.task import TrainingTask

WEIGHT = 12.5
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])


def images() -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(8, 3, 64, 64, dtype=torch.float64)


def mixture(balance_weight: float = 0.0, head: str = "gm_sop", backbone: str = "test_resnet"):
    torch.manual_seed(0)
    model = gmsop.create_model(f"{head}_4_2_tiny", 5) if backbone == "tiny" else None
    if model is None:
        model = gmsop.attach(backbone, head, 5, num_components=4, reduced_dim=8)
    for dropout in (m for m in model.modules() if isinstance(m, nn.Dropout)):
        dropout.p = 0.0
    model.pool.balance_weight = balance_weight
    nn.init.normal_(model.gate.weight, std=0.1)
    return model.double().train()


def by_hand(model, x, labels, weight=WEIGHT):
    logits, routing = model(x, return_routing=True)
    return F.cross_entropy(logits, labels) + weight * balance_loss(routing.dense)


def by_itself(model, x, labels):
    return F.cross_entropy(model(x), labels)


def gradients(model, step):
    torch.manual_seed(7)  # the gate's noise
    step(model)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_alike(found, expected, without=None):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert relative_error(found[name], gradient) < 1e-12, name
    gate = [name for name in expected if "gate" in name]
    assert gate
    if without is not None:  # the balance loss is no small part of the gate's gradient
        assert max(relative_error(without[name], expected[name]) for name in gate) > 0.1


@pytest.mark.parametrize("head", ["gm_sop", "gm_gap"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_by_itself_as_by_hand(head, checkpointing, autocast):
    def step(loss, weight=None):
        def run(model):
            model.set_grad_checkpointing(checkpointing)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                value = loss(model, images().float() if autocast else images(), LABELS)
            value.backward()

        return run

    def made(weight=0.0):
        model = mixture(weight, head)
        return model.float() if autocast else model

    without = gradients(made(), step(by_itself))
    assert_alike(gradients(made(WEIGHT), step(by_itself)), gradients(made(), step(by_hand)), without)


def test_accumulated_passes():
    """The loop divides its loss by the number of passes; `balance_scale` is that factor."""

    def step(loss):
        def run(model):
            model.eval()  # no noise, and one BatchNorm for all
            model.pool.train()
            for part in (slice(0, 4), slice(4, 8)):
                (loss(model, images()[part], LABELS[part]) / 2).backward()

        return run

    scaled = mixture(WEIGHT)
    scaled.pool.balance_scale = 0.5
    assert_alike(gradients(scaled, step(by_itself)), gradients(mixture(), step(by_hand)))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["gm_sop", "gm_gap"])
def test_compiled(head):
    def step(loss):
        def run(model):
            loss(torch.compile(model, backend="aot_eager"), images(), LABELS).backward()

        return run

    assert_alike(
        gradients(mixture(WEIGHT, head, "tiny"), step(by_itself)), gradients(mixture(0, head, "tiny"), step(by_hand))
    )


@pytest.mark.parametrize("mode", [nn.Module.eval, lambda model: model.requires_grad_(False)])
def test_nothing_is_added_where_the_gate_does_not_learn(mode):
    found, expected = mode(mixture(WEIGHT)), mode(mixture())
    assert torch.equal(found(images()), expected(images())) or found.training
    x = [images().requires_grad_(), images().requires_grad_()]
    for model, given in zip((found.eval(), expected.eval()), x, strict=True):
        model(given).square().sum().backward()
    assert torch.equal(x[0].grad, x[1].grad)


def test_the_weight_is_kept_in_files(tmp_path):
    model = gmsop.attach("test_resnet", "gm_gap", 3, num_components=4, balance_weight=0.5)
    gmsop.save_model(model, tmp_path / "m.safetensors")
    assert gmsop.load_model(tmp_path / "m.safetensors").pool.balance_weight == 0.5
    with pytest.raises(ConfigError, match="balance_weight must be at least 0, got -1"):
        gmsop.attach("test_resnet", "gm_gap", 3, num_components=4, balance_weight=-1.0)


def test_balanced_cross_entropy():
    model = mixture()
    criterion = gmsop.BalancedCrossEntropy(nn.Sequential(model), 8 * WEIGHT)
    found = gradients(model, lambda m: criterion(m(images()), LABELS).backward())
    expected = gradients(mixture(), lambda m: by_hand(m, images(), LABELS).backward())
    assert_alike(found, expected)
    logits = model.eval()(images())
    assert torch.equal(criterion(logits, LABELS), F.cross_entropy(logits, LABELS))
    gap = gmsop.create_model("gap_tiny", 5)
    smooth = gmsop.BalancedCrossEntropy(gap, label_smoothing=0.1)
    logits = gap(images().float())
    assert torch.equal(smooth(logits, LABELS), F.cross_entropy(logits, LABELS, label_smoothing=0.1))


def test_twice_is_refused():
    model = mixture(WEIGHT)
    for make in (lambda: gmsop.BalancedCrossEntropy(model), lambda: TrainingTask(model, Recipe())):
        with pytest.raises(ConfigError, match=r"by itself, with balance_weight 12\.5: twice is too often"):
            make()
    with pytest.raises(ConfigError, match="no model of gmsop's in this Linear"):
        gmsop.BalancedCrossEntropy(nn.Linear(2, 2))


def test_rates_with_which_a_foreign_loop_does_not_diverge():
    model = mixture()
    rest, classifier = gmsop.param_groups(model, lr=0.1, weight_decay=1e-4)
    assert {id(p) for p in classifier["params"]} == {id(p) for p in model.fc.parameters()}
    assert len(rest["params"]) + len(classifier["params"]) == len(list(model.parameters()))
    limit = 2 * 1.9 * 5 / 36  # 8 (8 + 1) / 2 numbers of variance 1, five classes
    assert (rest["lr"], rest["lr_scale"], classifier["lr_scale"]) == (0.1, 1.0, 1.0)  # 0.1 is below the limit
    for lr in (10 * limit, limit):
        rest, classifier = gmsop.param_groups(model, lr=lr)
        assert classifier["lr"] == pytest.approx(limit)
        assert classifier["lr_scale"] == pytest.approx(limit / lr)
    assert gmsop.param_groups(model, lr=0.1, classifier_lr_scale=0.25)[1]["lr"] == pytest.approx(0.025)
    assert gmsop.param_groups(gmsop.create_model("gap_tiny", 5), lr=9.0)[1]["lr"] == 9.0  # no BatchNorm, no bound
    torch.optim.SGD(gmsop.param_groups(model, lr=0.1), momentum=0.9)
    for wrong in ({"lr": 0.0}, {"lr": 0.1, "classifier_lr_scale": -1.0}):
        with pytest.raises(ConfigError, match="must be positive"):
            gmsop.param_groups(model, **wrong)


SCRIPT = """
import sys, torch
from timm import create_model
from timm.task import ClassificationTask

assert sys.argv[1:] == ["DATA", "--model", "x"], sys.argv
import beside
model = create_model("gm_gap_4_2_tiny", num_classes=5).train()
task = ClassificationTask(model, criterion=torch.nn.CrossEntropyLoss(), verbose=False)
torch.manual_seed(0)
x, y = torch.randn(8, 3, 32, 32), torch.arange(8) % 5
torch.manual_seed(1)
loss = task(x, y)["loss"]
torch.manual_seed(1)
logits, routing = model(x, return_routing=True)
from gmsop.ops import balance_loss
expected = torch.nn.functional.cross_entropy(logits, y) + 40 / 8 * balance_loss(routing.dense)
assert torch.allclose(loss, expected), (loss, expected)
print("equal", balance_loss(routing.dense).item() > 0)
"""


def run_script(*words):
    return subprocess.run([sys.executable, "-m", "gmsop.timm", *map(str, words)], capture_output=True, text=True)


@pytest.mark.slow
def test_timms_script_has_the_balance_loss_in_its_task(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "beside.py").touch()  # timm's script imports from beside itself
    found = run_script("--balance-weight", 40, tmp_path / "train.py", "DATA", "--model", "x")
    assert found.stdout == "equal True\n", found.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no script. Usage: python -m gmsop.timm"),
        (["nowhere.py"], "nowhere.py: no such file"),
        (["--balance-weight"], "--balance-weight wants a number"),
        (["--balance-weight=much", "train.py"], "--balance-weight wants a number"),
    ],
)
def test_what_is_no_script(words, says, capsys):
    from gmsop.timm.__main__ import main

    assert main(words) == 2
    assert says in capsys.readouterr().err
