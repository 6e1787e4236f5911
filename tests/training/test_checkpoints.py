import shutil
import warnings
from pathlib import Path

import pytest
import torch
from child import run_child
from killed import train_on_a_full_disk
from tiny import recipe, same, weights

from gmsop.errors import CheckpointError, TrainingWarning
from gmsop.runs.metrics import read_metrics
from gmsop.training.checkpoints import find_checkpoint, read_whole
from gmsop.training.recipe import Recipe
from gmsop.training.run import train
from gmsop.weights.model_file import load_model


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while(small_set, tmp_path):
    """The second epoch's checkpoints cannot be written: told, and nothing else is different."""
    out = tmp_path / "x"
    settings = recipe(model="gap_tiny", epochs=3, checkpoint_every=2)
    status, text = run_child(tmp_path / "log", train_on_a_full_disk, settings, small_set, out)
    assert status == 0, text
    assert "done 40" in text
    assert "NO CHECKPOINT after step 5: cannot write" in text
    assert "NO CHECKPOINT after step 6: cannot write" in text
    assert "no space left on the disk" in text
    assert sorted(read_metrics(out / "metrics.csv")) == [0, 1, 2]
    assert read_whole(out / "last.ckpt")["gmsop"]["epoch"] == 3
    assert read_whole(out / "previous.ckpt")["global_step"] == 8
    assert load_model(out / "best.ckpt").num_classes == 10
    assert not [p.name for p in out.iterdir() if p.name.endswith(".part")]


def test_a_folder_that_cannot_be_written_at_all(small_set, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        train(recipe(), small_set, tmp_path / "file" / "run")


@pytest.fixture(scope="module")
def run(small_set, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    train(recipe(epochs=[2], checkpoint_every=1), small_set, out)
    return out


def test_three_checkpoints_stand_for_three_moments(run):
    places = {name: read_whole(run / f"{name}.ckpt")["gmsop"] for name in ("last", "previous", "best")}
    assert (places["last"]["epoch"], places["last"]["images"]) == (2, 0)
    assert (places["previous"]["epoch"], places["previous"]["images"]) == (1, 60)
    assert places["best"]["images"] == 0
    assert same(weights(run, "best.ckpt"), load_model(run / "model.safetensors").state_dict())


@pytest.mark.parametrize("broken", [{"last"}, {"last", "previous"}])
def test_the_newest_whole_checkpoint_is_found(run, tmp_path, broken):
    out = tmp_path / "copy"
    shutil.copytree(run, out)
    for name in broken:
        file = out / f"{name}.ckpt"
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    places = {name: read_whole(run / f"{name}.ckpt")["gmsop"] for name in {"last", "previous", "best"} - broken}
    furthest = max(places, key=lambda name: (places[name]["epoch"], places[name]["images"]))
    with pytest.warns(TrainingWarning) as told:
        found = find_checkpoint(out)
    assert found == out / f"{furthest}.ckpt"
    for name, warning in zip(sorted(broken), told, strict=True):
        assert f"{name}.ckpt: not a training checkpoint, or truncated" in str(warning.message)
        assert f"Going on from {found}" in str(warning.message)


def test_nothing_but_tensors_and_numbers_is_loaded(run, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_checkpoint(run) == run / "last.ckpt"
    torch.save({"gmsop": {}, "state_dict": {}, "epoch": Recipe()}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        find_checkpoint(tmp_path)
