import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from tiny import recipe, same, weights

from gmsop.checkpoint import load_model
from gmsop.errors import CheckpointError
from gmsop.metrics import read_metrics
from gmsop.recipe import Recipe
from gmsop.training import train
from gmsop.training.checkpoints import find_checkpoint, read_whole
from gmsop.training.console import TrainingWarning

FULL = """
import resource, signal, sys, yaml
from gmsop.recipe import load_recipe
from gmsop.training import TrainingTask, train
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
begin = TrainingTask.on_train_epoch_start
def fill(task):
    begin(task)
    room = {0: -1, 1: 300_000, 2: -1}[task.current_epoch]  # bytes that a file may have
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, -1))
TrainingTask.on_train_epoch_start = fill
run = train(load_recipe(sys.argv[1]), sys.argv[2], sys.argv[3])
print("done", run.result.images)
"""


def test_a_disk_that_is_full_for_a_while(small_set, tmp_path):
    """The second epoch's checkpoint cannot be written: told, and nothing else is different."""
    (tmp_path / "r.yaml").write_text(
        "model: gap_tiny\nepochs: 3\nbatch_size: 30\nnormalize: mean_std\nstem_scale: 1\ncheckpoint_every: 2\n"
    )
    command = [sys.executable, "-c", FULL, str(tmp_path / "r.yaml"), str(small_set), str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "done 40" in done.stdout
    assert "NO CHECKPOINT after step 5: cannot write" in done.stderr
    assert "NO CHECKPOINT after step 6: cannot write" in done.stderr
    assert "no space left on the disk" in done.stderr
    assert sorted(read_metrics(tmp_path / "x" / "metrics.csv")) == [0, 1, 2]
    assert read_whole(tmp_path / "x" / "last.ckpt")["gmsop"]["epoch"] == 3
    assert read_whole(tmp_path / "x" / "previous.ckpt")["global_step"] == 8
    assert load_model(tmp_path / "x" / "best.ckpt").num_classes == 10
    assert not [p.name for p in (tmp_path / "x").iterdir() if p.name.endswith(".part")]


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
    with pytest.warns(TrainingWarning, match=r"last\.ckpt: not a training checkpoint, or truncated.*Going on from"):
        found = find_checkpoint(out)
    assert found.name == ("best.ckpt" if "previous" in broken else "previous.ckpt")


def test_nothing_but_tensors_and_numbers_is_loaded(run, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_checkpoint(run) == run / "last.ckpt"
    torch.save({"gmsop": {}, "state_dict": {}, "epoch": Recipe()}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        find_checkpoint(tmp_path)
