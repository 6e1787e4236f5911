import math
from types import SimpleNamespace

import pytest
import torch
from tiny import recipe, same, weights
from torch.nn import functional as F

from gmsop.data import PackedDataset, train_loader
from gmsop.engine.trainer import make_trainer
from gmsop.errors import ConfigError, TrainingError, TrainingWarning
from gmsop.ops import balance_loss
from gmsop.runs.metrics import read_metrics
from gmsop.training.model import fresh_model
from gmsop.training.run import train
from gmsop.training.task import TrainingTask
from gmsop.weights.training_file import read_training_checkpoint


def task_of(small_set, **changes) -> TrainingTask:
    settings = recipe(**changes)
    task = TrainingTask(fresh_model(settings, PackedDataset(small_set, "train")), settings)
    task.trainer = make_trainer(False, accelerator="cpu")
    return task


def test_input_is_pixels_minus_the_mean_and_the_stem_is_scaled(small_set):
    torch.manual_seed(0)
    published = task_of(small_set, normalize="mean", stem_scale=60, bn_momentum=0.3)
    torch.manual_seed(0)
    plain = task_of(small_set, normalize="mean", stem_scale=1)
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    mean = torch.tensor(PackedDataset(small_set, "train").meta["rgb_mean"])
    assert torch.allclose(published.prepare(images), (images - mean).permute(0, 3, 1, 2).float(), atol=1e-4)
    stems = [t.model.backbone.stem.conv.weight for t in (published, plain)]
    assert torch.allclose(stems[0] * 60, stems[1])
    momenta = {
        m.momentum for m in published.model.modules() if isinstance(m, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d)
    }
    assert momenta == {0.3}


def test_optimiser_follows_the_recipe(small_set):
    task = task_of(small_set, stem_scale=60, classifier_lr_scale=0.5, epochs=[4, 2, 1], lr=0.1, weight_decay=1e-4)
    optimizer = task.configure_optimizers()
    rest, stem, classifier = optimizer.param_groups
    assert stem["params"] == [task.model.backbone.stem.conv.weight]
    assert classifier["params"] == [task.model.fc.weight, task.model.fc.bias]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(task.model.parameters()))
    for epoch, rate in enumerate([0.1] * 4 + [0.01] * 2 + [0.001]):
        task.set_rates(optimizer, epoch, 0, 3)
        assert rest["lr"] == pytest.approx(rate)
        assert stem["lr"] == pytest.approx(rate / 3600)
        assert classifier["lr"] == pytest.approx(rate / 2)
        others = {(g["weight_decay"], g["momentum"], g["nesterov"]) for g in optimizer.param_groups}
        assert others == {(1e-4, 0.9, False)}


@pytest.mark.parametrize("count", [30, 7])
def test_balance_weight_is_against_the_summed_cross_entropy(small_set, count):
    task = task_of(small_set, flip="none", balance_weight=100)
    images, labels = torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8), torch.arange(count) % 10
    torch.manual_seed(3)
    loss = task.training_step((images, labels), 0)
    torch.manual_seed(3)
    logits, routing = task.model(task.prepare(images), return_routing=True)
    summed = F.cross_entropy(logits, labels, reduction="sum") + 100 * balance_loss(routing.dense)
    assert loss.item() == pytest.approx(summed.item() / count, rel=1e-5)


@pytest.mark.parametrize("kind", ["label_smoothing", "mixup"])
def test_soft_targets(small_set, kind):
    task = task_of(small_set, flip="none", balance_weight=0, **{kind: 0.3})
    images, labels = torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8), torch.arange(8)
    plain = task_of(small_set, flip="none", balance_weight=0)
    plain.model.load_state_dict(task.model.state_dict())
    losses = []
    for each in (task, plain):
        torch.manual_seed(3)
        losses.append(each.training_step((images, labels), 0).item())
    assert losses[0] != losses[1]
    assert task.totals.compute()["train/loss"] == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.parametrize("sizes", [(4, 4), (4, 3), (4,)])
def test_accumulated_passes_have_the_gradient_of_one(small_set, sizes):
    """The last step of an epoch, too. BatchNorm in evaluation mode, and no gate, whose balance is that of a pass."""
    count = sum(sizes)
    images, labels = torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8), torch.arange(count)
    gradients = []
    for accumulate, shares in ((1, (count,)), (2, sizes)):
        torch.manual_seed(0)
        task = task_of(small_set, model="sr_sop_tiny", flip="none", accumulate=accumulate, batch_size=8)
        task.double().eval()
        task.trainer = SimpleNamespace(
            world_size=1, num_training_batches=len(shares), train_dataloader=SimpleNamespace(sampler=range(count))
        )
        for index, share in enumerate(zip(images.split(shares), labels.split(shares), strict=True)):
            (task.training_step(share, index) / accumulate).backward()  # as Lightning does
        gradients.append([p.grad for p in task.model.parameters()])
    for one, two in zip(*gradients, strict=True):
        assert torch.allclose(one, two, rtol=1e-10, atol=1e-14)


def test_what_an_epoch_counts(small_set, tmp_path):
    metrics = read_metrics(train(recipe(model_args={"top_k": 1}), small_set, tmp_path / "x").folder / "metrics.csv")
    for row in metrics.values():
        loads = [row[f"gate/load_{i}"] for i in range(4)]
        assert sum(loads) == pytest.approx(1, abs=1e-5)
        assert row["gate/entropy"] == 0  # one component takes all
        assert row["gate/load_entropy"] == pytest.approx(-sum(x * math.log(x) for x in loads if x), abs=1e-5)
        assert row["gate/dead_components"] == sum(x == 0 for x in loads)
        assert {"val/gate_entropy", "val/dead_components", "train/balance_loss"} <= set(row)


def poison(monkeypatch, when):
    """The components' weights are so large that they overflow in the batches for which `when(epoch, index)`."""
    original = TrainingTask.training_step

    def step(self, batch, index):
        if not when(self.current_epoch, index):
            return original(self, batch, index)
        weights = [component.conv1.weight for component in self.model.pool.components]  # all: whichever the gate picks
        kept = [weight.detach().clone() for weight in weights]
        try:
            with torch.no_grad():
                for weight in weights:
                    weight.fill_(3e38)
            return original(self, batch, index)
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, kept)

    monkeypatch.setattr(TrainingTask, "training_step", step)


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(small_set, tmp_path, monkeypatch):
    out = tmp_path / "run"
    poison(monkeypatch, lambda epoch, index: (epoch, index) == (1, 1))
    with pytest.raises(TrainingError, match=r"step 4 \(epoch 2, batch 2\); it began in pool") as caught:
        train(recipe(), small_set, out)
    assert f"the last good checkpoint is {out / 'last.ckpt'}" in str(caught.value)
    order = train_loader(PackedDataset(small_set, "train"), 30, 0).sampler.indices(1)
    assert str(order[30:60]) in str(caught.value)
    monkeypatch.undo()
    whole = train(recipe(), small_set, tmp_path / "whole")
    assert same(weights(train(recipe(), small_set, out, out).folder), weights(whole.folder))


@pytest.mark.parametrize("checkpoint_every", [1, 0])
@pytest.mark.parametrize("non_finite", ["stop", "skip"])
@pytest.mark.filterwarnings("ignore::gmsop.errors.TrainingWarning")
def test_weights_that_are_not_finite_are_never_saved(small_set, tmp_path, monkeypatch, checkpoint_every, non_finite):
    """The gradient of the second epoch's first step is not, though its loss is."""
    original = TrainingTask.on_before_optimizer_step

    def spoil(task, optimizer):
        if task.trainer.global_step == 12:
            task.model.get_classifier().bias.grad.fill_(torch.nan)
        original(task, optimizer)

    monkeypatch.setattr(TrainingTask, "on_before_optimizer_step", spoil)
    settings = recipe(batch_size=8, checkpoint_every=checkpoint_every, non_finite=non_finite)
    where = "after step 13 the weights fc.bias are not" if checkpoint_every else "the weights fc.bias, which the step"
    with pytest.raises(TrainingError, match=where) as caught:
        train(settings, small_set, tmp_path / "run")
    assert f"the last good checkpoint is {tmp_path / 'run' / 'last.ckpt'}" in str(caught.value)
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_a_step_that_is_not_finite_can_be_skipped(small_set, tmp_path, monkeypatch):
    poison(monkeypatch, lambda epoch, index: (epoch, index) == (0, 1))
    with pytest.warns(TrainingWarning, match=r"not finite in step 1 \(epoch 1, batch 2\): skipped"):
        run = train(recipe(non_finite="skip"), small_set, tmp_path / "x")
    metrics = read_metrics(run.folder / "metrics.csv")
    assert [row.get("train/skipped_passes", 0) for row in metrics.values()] == [1, 0]
    assert all(value.isfinite().all() for value in weights(run.folder).values())
    assert math.isfinite(metrics[0]["train/loss"])


@pytest.mark.filterwarnings("ignore::gmsop.errors.TrainingWarning")
def test_a_skipped_pass_skips_the_whole_step(small_set, tmp_path, monkeypatch):
    """Passes 0 and 1 are a step, 2 and 3, 4 and 5."""
    poison(monkeypatch, lambda epoch, index: index == 3)
    learnt = []

    def keep(task, outputs, batch, index):
        momenta = [state["momentum_buffer"] for state in task.optimizers().state.values()]
        learnt.append([value.clone() for value in (*task.model.parameters(), *momenta)])

    monkeypatch.setattr(TrainingTask, "on_train_batch_end", keep)
    train(recipe(non_finite="skip", accumulate=2, epochs=[1]), small_set, tmp_path / "x")
    assert same(dict(enumerate(learnt[1])), dict(enumerate(learnt[3])))
    assert not same(dict(enumerate(learnt[3])), dict(enumerate(learnt[5])))


@pytest.mark.filterwarnings("ignore::gmsop.errors.TrainingWarning")
def test_an_epoch_of_skipped_steps_has_no_loss(small_set, tmp_path, monkeypatch):
    poison(monkeypatch, lambda epoch, index: epoch == 0)
    run = train(recipe(non_finite="skip"), small_set, tmp_path / "x")
    rows = read_metrics(run.folder / "metrics.csv")
    assert [math.isnan(rows[epoch]["train/loss"]) for epoch in (0, 1)] == [True, False]


@pytest.mark.filterwarnings("ignore::gmsop.errors.TrainingWarning")
def test_skipping_gives_up_in_the_end(small_set, tmp_path, monkeypatch):
    poison(monkeypatch, lambda epoch, index: index > 0)
    with pytest.raises(TrainingError, match="10 passes in a row, up to step 10"):
        train(recipe(non_finite="skip", batch_size=8), small_set, tmp_path / "x")


@pytest.mark.parametrize("changes", [{"precision": "bf16-mixed"}, {"channels_last": True}, {"randaugment": 5}])
def test_options_train(small_set, tmp_path, monkeypatch, changes):
    seen = {}
    monkeypatch.setattr(TrainingTask, "on_train_start", lambda task: seen.update(look_at(task)))

    def look_at(task):
        task.model.backbone.register_forward_hook(lambda module, args, out: seen.update(dtype=out.dtype))
        weight = task.model.backbone.stages[0][0].a.conv.weight
        return {"channels_last": weight.is_contiguous(memory_format=torch.channels_last)}

    run = train(recipe(epochs=[1], **changes), small_set, tmp_path / "x")
    assert math.isfinite(run.result.loss)
    assert seen["dtype"] == (torch.bfloat16 if "precision" in changes else torch.float32)
    assert seen["channels_last"] == ("channels_last" in changes)


def test_crops_colours_and_mixtures_reach_the_model(small_set):
    images, labels = next(iter(train_loader(PackedDataset(small_set, "train"), 8, 0)))
    for changes in ({"randaugment": 5}, {"crop_padding": 4}, {"mixup": 0.8}, {"cutmix": 1.0}, {"flip": "random"}):
        losses = []
        for more in ({}, changes):
            task = task_of(small_set, **({"flip": "none"} | more))
            task.model.eval()
            torch.manual_seed(0)
            losses.append(task.training_step((images, labels), 0).item())
        assert losses[0] != losses[1], changes


def test_the_rate_of_every_step(small_set, tmp_path, monkeypatch):
    """Ninety images in batches of 30, in two passes each: the rate is the step's, not the pass's."""
    rates = []
    monkeypatch.setattr(
        TrainingTask, "on_before_optimizer_step", lambda task, optimizer: rates.append(optimizer.param_groups[0]["lr"])
    )
    train(recipe(schedule="cosine", accumulate=2, lr=0.1), small_set, tmp_path / "x")
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)])


@pytest.mark.slow
def test_a_compiled_model_trains_the_same(small_set, tmp_path, monkeypatch):
    """Traced as any compiled model is, and run by PyTorch's operators, whose numbers are the same to the bit."""
    compile_ = torch.nn.Module.compile
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile_(module, backend="eager"))
    runs = [train(recipe(epochs=1, compile=c), small_set, tmp_path / str(c)) for c in (True, False)]
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert same(*(weights(run.folder) for run in runs))
    assert runs[0].result == runs[1].result


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sync_batchnorm": True}, "sync_batchnorm needs CUDA devices"),
        ({"precision": "16-mixed"}, "16-mixed needs a GPU"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can do these")
def test_what_a_cpu_cannot_do(small_set, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(recipe(**changes), small_set, tmp_path / "x")


def test_the_average_is_made_step_by_step_in_the_run_s_precision(small_set, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        TrainingTask, "on_train_batch_end", lambda task, *_: seen.append(task.model.fc.weight.detach().clone())
    )
    train(recipe(epochs=[1], ema_decay=0.75, precision="64-true"), small_set, tmp_path / "a")
    average = seen[0]  # Lightning's begins with the weights after the first step
    for weight in seen[1:]:
        average = 0.75 * average + 0.25 * weight
    found = weights(tmp_path / "a")["fc.weight"]
    assert found.dtype == torch.double
    assert not torch.equal(found, found.float().double())
    torch.testing.assert_close(found, average, rtol=1e-12, atol=0)


def test_the_average_of_the_weights_is_what_is_kept(small_set, tmp_path):
    averaged = train(recipe(epochs=[1], ema_decay=0.5), small_set, tmp_path / "a")
    plain = train(recipe(epochs=[1]), small_set, tmp_path / "b")
    checkpoint = read_training_checkpoint(averaged.folder / "last.ckpt")
    raw = {k.removeprefix("model."): v for k, v in checkpoint["current_model_state"].items() if k.startswith("model.")}
    assert same(raw, weights(plain.folder))
    assert not same(weights(averaged.folder), raw)
