"""Ctrl-C, SIGTERM and a requeue by Slurm: saved, left in good order, and gone on with as if nothing had been."""

import os
import signal
import stat

import pytest
import yaml
from child import run_child
from killed import train_as_a_slurm_job, train_in_a_group
from tiny import recipe, same, weights

from gmsop.cli import main
from gmsop.training.run import train
from gmsop.training.signals import Interrupted
from gmsop.training.task import TrainingTask
from gmsop.weights.training_file import read_training_checkpoint

pytestmark = pytest.mark.xdist_group("processes")  # each starts some: not two of these at a time


@pytest.fixture(scope="module")
def whole(small_set, tmp_path_factory):
    return train(recipe(), small_set, tmp_path_factory.mktemp("whole") / "run")


def send(monkeypatch, number, epoch, index, hook="training_step"):
    """This process gets the signal in the middle of a step."""
    original = getattr(TrainingTask, hook)

    def step(self, batch, i):
        if (self.current_epoch, i) == (epoch, index):
            os.kill(os.getpid(), number)
        return original(self, batch, i)

    monkeypatch.setattr(TrainingTask, hook, step)


@pytest.fixture
def heard():
    """Undo what `nohup make test` does, under which a run rightly does not mind a lost terminal."""
    before = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        signal.SIGTERM,
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("heard")
def test_saved_after_the_step_and_gone_on_with(small_set, tmp_path, monkeypatch, whole, number):
    out, before = tmp_path / "run", signal.getsignal(number)
    send(monkeypatch, number, 1, 0)
    with pytest.raises(Interrupted, match=f"go on with: gmsop train --resume {out}") as stop:
        train(recipe(), small_set, out)
    assert stop.value.signum == number
    assert signal.getsignal(number) is before
    saved = read_training_checkpoint(out / "last.ckpt")["gmsop"]
    assert (saved["epoch"], saved["images"]) == (1, 30)
    monkeypatch.undo()
    resumed = train(recipe(), small_set, out, out)
    assert same(weights(out), weights(whole.folder))
    assert (out / "metrics.csv").read_text() == (whole.folder / "metrics.csv").read_text()
    assert resumed.result == whole.result


def test_a_lost_terminal_does_not_matter_under_nohup(small_set, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        send(monkeypatch, signal.SIGHUP, 0, 0)
        assert train(recipe(model="gap_tiny", epochs=1), small_set, tmp_path / "run").result.images == 40
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_in_the_validation_waits_for_the_epochs_end(small_set, tmp_path, monkeypatch, whole):
    out = tmp_path / "run"
    send(monkeypatch, signal.SIGTERM, 0, 0, "validation_step")
    with pytest.raises(Interrupted):
        train(recipe(), small_set, out)
    saved = read_training_checkpoint(out / "last.ckpt")["gmsop"]
    assert (saved["epoch"], saved["images"]) == (1, 0)
    monkeypatch.undo()
    train(recipe(), small_set, out, out)
    assert same(weights(out), weights(whole.folder))


def test_the_second_ctrl_c_does_not_wait(small_set, tmp_path, monkeypatch):
    out, original = tmp_path / "run", TrainingTask.training_step

    def step(self, batch, index):
        if index == 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the second Ctrl-C was not obeyed")
        return original(self, batch, index)

    monkeypatch.setattr(TrainingTask, "training_step", step)
    with pytest.raises(Interrupted, match="there is no checkpoint yet"):
        train(recipe(), small_set, out)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_exit_status(small_set, tmp_path, monkeypatch, capsys, number, status):
    send(monkeypatch, number, 0, 1)
    words = ["train", "--recipe", "demo/gap", "--data", small_set, "--out", tmp_path / "x", "--epochs", "2"]
    assert main([str(word) for word in words]) == status
    assert f"gmsop: interrupted: go on with: gmsop train --resume {tmp_path / 'x'}" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the system does not say who sent a signal")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_processes_that_read_images_outlive_a_signal(small_set, tmp_path, number, status):
    words = ["train", "--recipe", "demo/gap", "--data", small_set, "--out", tmp_path / "x", "--epochs", "3",
             "--batch_size", "30", "--num_workers", "2"]  # fmt: skip
    found, text = run_child(tmp_path / "log", train_in_a_group, [str(word) for word in words], number)
    assert found == status, text
    assert text.count("saving a checkpoint after this step") == 1
    saved = read_training_checkpoint(tmp_path / "x" / "last.ckpt")["gmsop"]
    assert (saved["epoch"], saved["images"]) == (1, 60)


@pytest.mark.slow
def test_slurm_requeues_and_goes_on(small_set, tmp_path, whole):
    """`scontrol` is a script that notes how it is called; the job is started twice by the same command."""
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    scontrol.chmod(stat.S_IRWXU)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe().to_dict()))
    out = tmp_path / "run"
    words = [str(w) for w in ("train", "--recipe", tmp_path / "recipe.yaml", "--data", small_set, "--out", out)]
    slurm = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0",
             "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost",
             "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}  # fmt: skip
    status, text = run_child(tmp_path / "log", train_as_a_slurm_job, slurm, words)
    assert status == 128 + signal.SIGUSR1, text
    assert (tmp_path / "calls").read_text() == "requeue 77\n"
    status, text = run_child(tmp_path / "log", train_as_a_slurm_job, slurm | {"SLURM_RESTART_COUNT": "1"}, words)
    assert status == 0, text
    assert "going on from step 2 (epoch 1, after 60 images of it)" in text
    assert same(weights(out), weights(whole.folder))
