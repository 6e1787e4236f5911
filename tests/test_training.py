import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

import gmsop
from gmsop.checkpoint import load_model
from gmsop.data import PackedDataset, train_loader
from gmsop.errors import CheckpointError, ConfigError, DataError, TrainingError
from gmsop.evaluation import evaluate
from gmsop.metrics import read_metrics
from gmsop.ops import balance_loss
from gmsop.prediction import predict
from gmsop.recipe import Recipe
from gmsop.training import TrainingTask, train

TINY = {
    "model": "gm_sop_4_2_tiny",
    "epochs": [2],
    "batch_size": 30,
    "lr": 0.05,
    "normalize": "mean_std",
    "stem_scale": 1,
}


def recipe(**changes) -> Recipe:
    return Recipe(**(TINY | changes))


@pytest.fixture(scope="module")
def run(small_set, tmp_path_factory):
    return train(recipe(), small_set, tmp_path_factory.mktemp("run") / "a")


def weights(folder):
    return load_model(folder / "last.ckpt").state_dict()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def test_a_run_leaves_what_it_says(run):
    files = {p.name for p in run.folder.iterdir()}
    assert {"recipe.yaml", "metrics.csv", "curves.png", "best.ckpt", "last.ckpt", "model.safetensors"} <= files
    assert any(name.startswith("events.out.tfevents") for name in files)
    assert (run.folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    metrics = read_metrics(run.folder / "metrics.csv")
    assert sorted(metrics) == [0, 1]
    keys = {
        "train/loss",
        "train/top1_error",
        "train/balance_loss",
        "val/top1_error",
        "val/top5_error",
        "val/loss",
        "lr",
    }
    assert all(keys <= set(values) for values in metrics.values())
    assert metrics[1]["val/top1_error"] == pytest.approx(run.result.top1_error)


def test_the_best_checkpoint_is_the_exported_model(run, small_set):
    val = PackedDataset(small_set, "val")
    result = evaluate(load_model(run.folder / "model.safetensors"), val)
    assert result.top1_error == pytest.approx(run.best_top1_error)
    assert same(
        load_model(run.folder / "best.ckpt").state_dict(), load_model(run.folder / "model.safetensors").state_dict()
    )
    last = evaluate(load_model(run.folder / "last.ckpt"), val)
    assert last.class_errors == run.result.class_errors
    assert last.loss == pytest.approx(run.result.loss, rel=1e-5)
    assert last.component_load == pytest.approx(run.result.component_load, rel=1e-5)


def test_the_same_seed_gives_the_same_weights(run, small_set, tmp_path):
    again = train(recipe(), small_set, tmp_path / "b")
    assert same(weights(again.folder), weights(run.folder))
    assert again.result == run.result
    other = train(recipe(seed=1), small_set, tmp_path / "c")
    assert not same(weights(other.folder), weights(run.folder))


@pytest.mark.parametrize("schedule", ["step", "one_cycle"])
def test_a_resumed_run_ends_like_one_never_stopped(small_set, tmp_path, schedule):
    settings = recipe(epochs=[1, 2], schedule=schedule)
    whole = train(settings, small_set, tmp_path / "whole")
    code = (
        "import os, signal, sys\n"
        "from gmsop.recipe import load_recipe\n"
        "from gmsop.training import TrainingTask, train\n"
        "begin = TrainingTask.on_train_epoch_start\n"
        "def die(task):\n"
        "    begin(task)\n"
        "    if task.current_epoch == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "TrainingTask.on_train_epoch_start = die\n"
        "train(load_recipe(sys.argv[1]), sys.argv[2], sys.argv[3])\n"
    )
    args = [str(tmp_path / "whole" / "recipe.yaml"), str(small_set), str(tmp_path / "killed")]
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert sorted(read_metrics(tmp_path / "killed" / "metrics.csv")) == [0, 1]
    resumed = train(settings, small_set, tmp_path / "killed", resume=tmp_path / "killed" / "last.ckpt")
    assert same(weights(resumed.folder), weights(whole.folder))
    assert resumed.result == whole.result
    logs = [(folder / "metrics.csv").read_text() for folder in (resumed.folder, whole.folder)]
    assert logs[0] == logs[1]
    assert same(
        load_model(resumed.folder / "best.ckpt").state_dict(), load_model(whole.folder / "best.ckpt").state_dict()
    )


def test_a_run_is_not_overwritten(run, small_set):
    with pytest.raises(ConfigError, match=r"already holds a run.*--resume"):
        train(recipe(), small_set, run.folder)


def test_another_models_checkpoint_is_not_resumed(run, small_set, tmp_path):
    with pytest.raises(CheckpointError, match="another model"):
        train(recipe(model="gap_tiny"), small_set, tmp_path / "x", resume=run.folder / "last.ckpt")
    with pytest.raises(CheckpointError, match="no such file"):
        train(recipe(), small_set, tmp_path / "x", resume=tmp_path / "none.ckpt")
    assert not (tmp_path / "x").exists()


def test_images_of_another_size_are_refused(small_set, tmp_path):
    with pytest.raises(DataError, match="images of 64 pixels, the recipe is for 100"):
        train(recipe(image_size=100), small_set, tmp_path / "x")


def task_of(small_set, **changes) -> TrainingTask:
    from gmsop.training import _fresh_model

    settings = recipe(**changes)
    return TrainingTask(_fresh_model(settings, PackedDataset(small_set, "train")), settings)


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
    task = task_of(small_set, stem_scale=60, epochs=[4, 2, 1], lr=0.1, weight_decay=1e-4)
    setup = task.configure_optimizers()
    optimizer, schedule = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    rest, stem = optimizer.param_groups
    assert stem["params"] == [task.model.backbone.stem.conv.weight]
    assert stem["lr"] == pytest.approx(0.1 / 3600)
    assert {g["weight_decay"] for g in optimizer.param_groups} == {1e-4}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(task.model.parameters()))
    rates = []
    for _ in range(7):
        rates.append(rest["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001])


@pytest.mark.parametrize("count", [30, 7])
def test_balance_weight_is_against_the_summed_cross_entropy(small_set, count, monkeypatch):
    task = task_of(small_set, flip="none", balance_weight=100)
    monkeypatch.setattr(task, "log", lambda *a, **k: None)
    images, labels = torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8), torch.arange(count) % 10
    torch.manual_seed(3)
    loss = task.training_step((images, labels), 0)
    torch.manual_seed(3)
    logits, routing = task.model(task.prepare(images), return_routing=True)
    summed = F.cross_entropy(logits, labels, reduction="sum") + 100 * balance_loss(routing.dense)
    assert loss.item() == pytest.approx(summed.item() / count, rel=1e-5)


def test_flips(small_set):
    images = torch.arange(400 * 3 * 2 * 2, dtype=torch.float).reshape(400, 3, 2, 2)
    variants = {"none": 1, "both": 1, "random": 2, "all": 4}
    for flip, count in variants.items():
        flipped = task_of(small_set, flip=flip)._flip(images)
        kinds = set()
        for before, after in zip(images, flipped, strict=True):
            options = [before, before.flip(2), before.flip(1), before.flip(1, 2)]
            kinds.add(next(i for i, option in enumerate(options) if torch.equal(option, after)))
        assert len(kinds) == count, flip


def test_evaluation_counts(small_set):
    """A model that always answers class 3 errs on all others."""
    model = gmsop.create_model("gap_tiny", 10)
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.copy_(torch.tensor([0.0, 0, 0, 5, 4, 3, 2, 1, 0, 0]))
    val = PackedDataset(small_set, "val")
    result = evaluate(model, val, batch_size=7)
    share = (val.labels == 3).mean()
    top5 = ((val.labels >= 3) & (val.labels <= 7)).mean()
    assert result.images == 40
    assert result.top1_error == pytest.approx(100 * (1 - share), abs=1e-4)
    assert result.top5_error == pytest.approx(100 * (1 - top5), abs=1e-4)
    assert result.class_errors == [0.0 if c == 3 else 100.0 for c in range(10)]
    assert result.component_load is None


def test_evaluation_refuses_what_does_not_fit(small_set):
    val = PackedDataset(small_set, "val")
    with pytest.raises(DataError, match="has 10 classes, the model tells 3 apart"):
        evaluate(gmsop.create_model("gap_tiny", 3), val)
    with pytest.raises(DataError, match="takes 1 channels"):
        evaluate(gmsop.create_model("gap_tiny", 10, in_chans=1), val)
    with pytest.raises(ConfigError, match="batch_size"):
        evaluate(gmsop.create_model("gap_tiny", 10), val, batch_size=0)


def test_prediction_agrees_with_evaluation(run, small_set, tmp_path):
    from PIL import Image

    model = load_model(run.folder / "model.safetensors")
    val = PackedDataset(small_set, "val")
    wrong = 0
    for image, label in val:
        Image.fromarray(image).save(tmp_path / "image.png")
        answer = predict(model, tmp_path / "image.png", top=3)
        wrong += answer.classes[0][0] != val.class_names[label]
        assert [p for _, p in answer.classes] == sorted((p for _, p in answer.classes), reverse=True)
        assert len(answer.components) == 2
        assert sum(w for _, w in answer.components) == pytest.approx(1, abs=1e-5)
    assert 100 * wrong / len(val) == pytest.approx(run.best_top1_error, abs=1e-3)


FULL = """
import resource, signal, sys
from gmsop import GmsopError
from gmsop.recipe import load_recipe
from gmsop.training import TrainingTask, train
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
begin = TrainingTask.on_train_epoch_start
def fill(task):
    begin(task)
    if task.current_epoch == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
TrainingTask.on_train_epoch_start = fill
try:
    train(load_recipe("demo/gap"), sys.argv[1], sys.argv[2])
except GmsopError as error:
    print("told:", error)
"""


def test_a_disk_that_fills_up_is_told_and_the_checkpoints_stay(small_set, tmp_path):
    command = [sys.executable, "-c", FULL, str(small_set), str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "told: cannot write" in done.stdout, done.stdout + done.stderr
    assert "no space left on the disk" in done.stdout
    for name in ("best.ckpt", "last.ckpt"):
        assert load_model(tmp_path / "x" / name).num_classes == 10
    assert sorted(read_metrics(tmp_path / "x" / "metrics.csv"))[0] == 0


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(small_set, tmp_path, monkeypatch):
    out = tmp_path / "run"
    train(recipe(epochs=[1]), small_set, out)  # leaves a good checkpoint
    good = (out / "last.ckpt").read_bytes()
    original = TrainingTask.on_train_batch_start

    def poison(self, batch, index):
        if index == 1:
            with torch.no_grad():
                for component in self.model.pool.components:  # whichever the gate picks
                    component.conv1.weight.fill_(torch.nan)
        return original(self, batch, index)

    monkeypatch.setattr(TrainingTask, "on_train_batch_start", poison)
    (out / "last.ckpt").rename(tmp_path / "good.ckpt")
    for name in ("best.ckpt", "metrics.csv", "model.safetensors"):
        (out / name).unlink()
    with pytest.raises(TrainingError, match=r"step 1 \(epoch 1, batch 2\); it began in pool") as caught:
        train(recipe(epochs=[2]), small_set, out)
    assert "no epoch was finished" in str(caught.value)
    assert (tmp_path / "good.ckpt").read_bytes() == good
    order = train_loader(PackedDataset(small_set, "train"), 30, 0).sampler
    assert str(list(order)[30:60]) in str(caught.value)
