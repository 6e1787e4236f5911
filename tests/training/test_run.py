import re
import sys

import pytest
import timm
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import recipe, same, weights

from gmsop.data import PackedDataset
from gmsop.engine.messages import is_first_process
from gmsop.errors import CheckpointError, ConfigError, DataError
from gmsop.evaluation.error_rates import evaluate
from gmsop.evaluation.prediction import predict
from gmsop.runs.metrics import read_metrics
from gmsop.training import epoch_lines
from gmsop.training.run import train
from gmsop.weights.model_file import load_model


@pytest.fixture(scope="module")
def run(small_set, tmp_path_factory):
    return train(recipe(), small_set, tmp_path_factory.mktemp("run") / "a")


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


def test_tensorboard_has_the_epochs_figures(run):
    events = EventAccumulator(str(run.folder)).Reload()
    metrics = read_metrics(run.folder / "metrics.csv")
    assert set(metrics[0]) <= set(events.Tags()["scalars"])
    for name in metrics[0]:
        values = [event.value for event in events.Scalars(name)]
        assert values == pytest.approx([metrics[0][name], metrics[1][name]], rel=1e-6)


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_run_shows(small_set, tmp_path, monkeypatch, capsys, terminal):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setattr(epoch_lines, "EVERY", 0.0)
    train(recipe(epochs=1), small_set, tmp_path / "run", progress=True)
    shown = capsys.readouterr()
    text = re.sub(r"\s+", " ", shown.out + shown.err)
    assert re.search(r"epoch 1/1 loss \d\.\d{3} validation: top-1 error", text)
    if terminal:  # a bar, with the time left
        assert re.search(
            r"epoch 1: +100%.*3/3 \[\d+:\d\d<\d+:\d\d.*loss=\d\.\d{3}, error=\d+\.\d %, images/s=\d+", text
        )
    else:
        assert re.search(r"epoch 1, 33 % loss \d\.\d{3} error \d+\.\d %", text)
        assert re.search(r"epoch 1, 67 % loss .* images/s \d+", text)
    assert "nan" not in text


def test_timm_gives_a_runs_folder_the_same_error(run, small_set):
    """Nothing but the folder says how its images are prepared."""
    model = timm.create_model(f"local-dir:{run.folder}", pretrained=True).eval()
    config = timm.data.resolve_data_config(model=model)
    val = PackedDataset(small_set, "val")
    wrong = 0
    with torch.no_grad():
        for image, label in (val[i] for i in range(len(val))):
            x = torch.as_tensor(image).permute(2, 0, 1) / 255 - torch.tensor(config["mean"])[:, None, None]
            wrong += int(model((x / torch.tensor(config["std"])[:, None, None])[None]).argmax() != label)
    assert 100 * wrong / len(val) == pytest.approx(run.best_top1_error)
    assert tuple(config["mean"]) != timm.data.IMAGENET_DEFAULT_MEAN
    assert config["input_size"] == (3, 64, 64)
    assert list(model.pretrained_cfg["label_names"]) == val.class_names
    assert torch.equal(load_model(run.folder).fc.weight, model.fc.weight)
    card = (run.folder / "README.md").read_text()
    assert f"top-1 error {run.best_top1_error:.2f} %" in card
    assert "license" not in card


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
    assert last.usage.load == pytest.approx(run.result.usage.load, rel=1e-5)


def test_the_same_seed_gives_the_same_weights(run, small_set, tmp_path):
    again = train(recipe(), small_set, tmp_path / "b")
    assert same(weights(again.folder), weights(run.folder))
    assert again.result == run.result
    other = train(recipe(seed=1), small_set, tmp_path / "c")
    assert not same(weights(other.folder), weights(run.folder))


def test_a_resident_set_trains_the_same(run, small_set, tmp_path):
    resident = train(recipe(loader="resident"), small_set, tmp_path / "b")
    assert same(weights(resident.folder), weights(run.folder))
    assert resident.result == run.result


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


@pytest.mark.parametrize(
    ("environment", "first"),
    [({}, True), ({"NODE_RANK": "0"}, True), ({"NODE_RANK": "1"}, False), ({"NODE_RANK": "1", "RANK": "0"}, True)],
)
def test_who_prints_and_writes_on_several_machines(monkeypatch, environment, first):
    """`RANK` is torchrun's, `NODE_RANK` all that Lightning's own launcher is told."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is first
