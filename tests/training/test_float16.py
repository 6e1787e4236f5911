"""float16 with a scaled loss, on a CPU. It is too slow there for anything else: the images are small."""

from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from tiny import recipe, same, weights

from gmsop.data import PackedDataset, PackedWriter
from gmsop.runs.metrics import read_metrics
from gmsop.training import build
from gmsop.training.run import train
from gmsop.training.task import TrainingTask
from gmsop.weights.training_file import read_training_checkpoint

SCALE = 2.0**30
"""Too large for the first steps, which are passed over while it is halved."""


@pytest.fixture(scope="module")
def smaller_set(small_set, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "smaller"
    splits = {"train": 24, "val": 8}
    with PackedWriter(
        path, 16, splits, PackedDataset(small_set, "train").class_names, "EuroSAT sample", "box"
    ) as writer:
        for split, count in splits.items():
            dataset = PackedDataset(small_set, split)
            for i in range(count):
                image, label = dataset[i]
                writer.add(image[::4, ::4], label)
    return path


@pytest.fixture
def settings(monkeypatch):
    scaler = partial(torch.amp.GradScaler, "cpu", init_scale=SCALE, growth_interval=5)
    monkeypatch.setattr("gmsop.engine.trainer.MixedPrecision", lambda *args: MixedPrecision(*args, scaler=scaler()))
    monkeypatch.setattr(build, "_require_possible", lambda *_: None)
    return recipe(image_size=16, batch_size=4, epochs=[4], precision="16-mixed", checkpoint_every=1)


@pytest.mark.slow
def test_a_run_stopped_while_the_scale_is_sought_goes_on_as_if_it_were_not(
    smaller_set, settings, tmp_path, monkeypatch
):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(settings, smaller_set, whole, accelerator="cpu")
    start = TrainingTask.on_train_batch_start

    def stop(task, batch, index):
        if task.global_step == 9:
            raise RuntimeError("stopped")
        start(task, batch, index)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        patch.setattr(TrainingTask, "on_train_batch_start", stop)
        train(settings, smaller_set, halves, accelerator="cpu")
    train(settings, smaller_set, halves, resume=halves, accelerator="cpu")
    a, b = (read_training_checkpoint(folder / "last.ckpt")["MixedPrecision"] for folder in (whole, halves))
    assert a == b
    assert 1 < a["scale"] < SCALE
    assert same(weights(whole), weights(halves))
    metrics = read_metrics(whole / "metrics.csv")
    assert metrics[3]["train/loss"] < metrics[0]["train/loss"]
