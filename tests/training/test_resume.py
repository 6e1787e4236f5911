"""A run that was killed, wherever, and is gone on with ends exactly as one that never was."""

import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from child import run_child
from killed import train_until
from tiny import recipe, same, weights

from gmsop.cli import main
from gmsop.data import PackedDataset, PackedWriter
from gmsop.engine import trainer as engine
from gmsop.errors import CheckpointError, ConfigError, DataError, TrainingWarning
from gmsop.runs.metrics import read_metrics, write_metrics
from gmsop.training import checkpoints
from gmsop.training.checkpoints import find_checkpoint
from gmsop.training.recipe import Recipe
from gmsop.training.resume import RunComplete, require_same_passes
from gmsop.training.run import train
from gmsop.training.run_files import alone_in
from gmsop.training.task import TrainingTask
from gmsop.weights.training_file import read_training_checkpoint

pytestmark = pytest.mark.xdist_group("processes")  # each starts some: not two of these at a time


def run_and_kill(settings: Recipe, data: Path, out: Path, *moment: object) -> None:
    status, text = run_child(out.parent / "log", train_until, settings, data, out, *moment)
    assert status == -9, text


def assert_alike(a: Path, b: Path) -> None:
    for name in ("last.ckpt", "best.ckpt", "model.safetensors"):
        assert same(weights(a, name), weights(b, name)), name
    assert (a / "metrics.csv").read_text() == (b / "metrics.csv").read_text()
    arrays = [dict(np.load(folder / "validation.npz")) for folder in (a, b)]
    assert arrays[0].keys() == arrays[1].keys()
    assert all(np.array_equal(arrays[0][name], array) for name, array in arrays[1].items())
    states = [read_training_checkpoint(folder / "last.ckpt")["optimizer_states"][0]["state"] for folder in (a, b)]
    assert all(torch.equal(states[0][i]["momentum_buffer"], s["momentum_buffer"]) for i, s in states[1].items())


def assert_nobody_writes_to(log: Path) -> None:
    """The processes that read images see within five seconds that the run was killed."""
    deadline = time.monotonic() + 20
    while left := [p for p in Path("/proc").glob("[0-9]*/fd/1") if _target(p) == str(log)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # the process ended in the meantime, or is another user's
        return ""


MOMENTS = [
    ("at_step", 0, 1),  # before the first checkpoint
    ("at_step", 0, 3),  # the first epoch, one step after a checkpoint
    ("while_writing", 2),
    ("before_validation_file", 1),
    ("while_validating", 1),
    ("at_step", 2, 0),
    ("while_renaming", 1),
]


OPTIONS = {"schedule": "cosine", "ema_decay": 0.9, "accumulate": 2, "mixup": 0.4, "crop_padding": 4, "flip": "both"}


@pytest.mark.parametrize(
    ("changes", "moments"),
    [
        pytest.param({"schedule": "one_cycle", "num_workers": 2}, MOMENTS[1:2], id="workers", marks=pytest.mark.slow),
        pytest.param(OPTIONS, MOMENTS, id="options", marks=pytest.mark.slow),
        pytest.param(OPTIONS, MOMENTS[2:3], id="one of them"),
    ],
)
def test_killed_again_and_again(small_set, tmp_path, changes, moments):
    settings = recipe(epochs=[1, 2], batch_size=16, checkpoint_every=2, **changes)
    whole = train(settings, small_set, tmp_path / "whole")
    for moment in moments:
        run_and_kill(settings, small_set, tmp_path / "killed", *moment)
    assert_nobody_writes_to(tmp_path / "log")
    resumed = train(settings, small_set, tmp_path / "killed", tmp_path / "killed")
    assert_alike(resumed.folder, whole.folder)
    assert resumed.result == whole.result
    assert (resumed.best_epoch, resumed.best_top1_error) == (whole.best_epoch, whole.best_top1_error)


def test_killed_before_the_file_of_the_last_epoch(small_set, tmp_path):
    settings, out = recipe(epochs=[1]), tmp_path / "killed"
    run_and_kill(settings, small_set, out, "before_validation_file", 1)
    assert not (out / "validation.npz").exists()
    with pytest.raises(RunComplete):
        train(settings, small_set, out, out)
    assert_alike(out, train(settings, small_set, tmp_path / "whole").folder)


def test_a_run_without_a_checkpoint_begins_anew(small_set, tmp_path, monkeypatch):
    settings, out = recipe(epochs=[1], checkpoint_every=1), tmp_path / "killed"
    run_and_kill(settings, small_set, out, "while_writing", 1)
    (out / "metrics.csv").write_text("epoch,train/loss\n0,7\n")  # as if it had come as far as to its first epoch's end
    with pytest.raises(ConfigError, match=r"already holds a run.*go on with --resume"):
        train(settings, small_set, out)
    whole = train(settings, small_set, tmp_path / "whole")
    shutil.copytree(out, tmp_path / "again")
    assert_alike(train(settings, small_set, out, out).folder, whole.folder)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert_alike(train(settings, small_set, tmp_path / "again").folder, whole.folder)


def test_the_time_before_a_stop_is_counted(small_set, stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "x")
    before = read_metrics(tmp_path / "x" / "timing.csv")
    assert before[1].keys() == {"train_seconds"}
    run = train(recipe(checkpoint_every=1), small_set, tmp_path / "x", tmp_path / "x")
    after = read_metrics(run.folder / "timing.csv")
    assert after[0] == before[0]
    assert after[1]["train_seconds"] > before[1]["train_seconds"]
    assert run.seconds == pytest.approx(sum(r["train_seconds"] + r["val_seconds"] for r in after.values()))


@pytest.mark.parametrize("content", [bytes(range(256)), b"hello\nworld\n", b""], ids=["bytes", "words", "empty"])
def test_damaged_figures_are_set_aside(small_set, stopped, tmp_path, content):
    shutil.copytree(stopped, tmp_path / "x")
    (tmp_path / "x" / "metrics.csv").write_bytes(content)
    with pytest.warns(TrainingWarning, match=r"metrics\.csv: damaged .* kept as metrics-damaged\.csv"):
        run = train(recipe(checkpoint_every=1), small_set, tmp_path / "x", tmp_path / "x")
    assert (tmp_path / "x" / "metrics-damaged.csv").read_bytes() == content
    whole = read_metrics(run.folder / "metrics.csv")
    assert sorted(whole) == [0, 1]
    assert whole[0] == read_metrics(stopped / "metrics.csv")[0]


def test_changed_figures_are_said_and_written_again(small_set, stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "x")
    file = tmp_path / "x" / "metrics.csv"
    before = read_metrics(file)
    write_metrics(file, {0: {name: value + 1 for name, value in before[0].items()}})
    with pytest.warns(TrainingWarning, match=r"metrics\.csv: other rows than the run's checkpoint knows"):
        run = train(recipe(checkpoint_every=1), small_set, tmp_path / "x", tmp_path / "x")
    assert read_metrics(run.folder / "metrics.csv")[0] == before[0]


def test_a_damaged_checkpoint_is_passed_over(small_set, tmp_path):
    settings = recipe(epochs=[2], checkpoint_every=1)
    whole = train(settings, small_set, tmp_path / "whole")
    out = tmp_path / "killed"
    run_and_kill(settings, small_set, out, "at_step", 1, 2)
    with (out / "last.ckpt").open("r+b") as file:  # one flipped bit, that only a checksum finds
        file.seek((out / "last.ckpt").stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 16]))
    with pytest.raises(CheckpointError, match=r"last\.ckpt: (damaged|not a training checkpoint)"):
        train(settings, small_set, out, out / "last.ckpt")
    with pytest.warns(TrainingWarning, match=r"Going on from .*previous\.ckpt"):
        resumed = train(settings, small_set, out, out)
    assert_alike(resumed.folder, whole.folder)


@pytest.fixture(scope="module")
def stopped(small_set, tmp_path_factory) -> Path:
    """A run folder whose last checkpoint is from within the second of two epochs."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    run_and_kill(recipe(checkpoint_every=1), small_set, out, "at_step", 1, 1)
    return out


def test_a_changed_recipe_is_refused_and_allowed(small_set, stopped, tmp_path):
    changed = recipe(checkpoint_every=1, lr=0.01, weight_decay=0.5)
    with pytest.raises(ConfigError, match=r"lr 0.05 -> 0.01; weight_decay 0.0001 -> 0.5.*--allow_changes"):
        train(changed, small_set, tmp_path / "x", stopped)
    run = train(changed, small_set, tmp_path / "x", stopped, allow_changes=True)
    assert read_metrics(run.folder / "metrics.csv")[1]["lr"] == 0.01
    group = read_training_checkpoint(run.folder / "last.ckpt")["optimizer_states"][0]["param_groups"][0]
    assert group["weight_decay"] == 0.5


@pytest.mark.slow
def test_a_run_goes_on_in_another_folder(small_set, tmp_path):
    settings = recipe(epochs=[1, 2])
    whole = train(settings, small_set, tmp_path / "whole")
    run_and_kill(settings, small_set, tmp_path / "killed", "at_step", 2, 1)
    moved = train(settings, small_set, tmp_path / "new", tmp_path / "killed")
    assert_alike(moved.folder, whole.folder)
    (tmp_path / "killed" / "best.ckpt").unlink()
    alone = train(settings, small_set, tmp_path / "alone", tmp_path / "killed" / "last.ckpt")
    assert alone.best_epoch == 3


def test_what_decides_the_length_of_an_epoch_changes_between_epochs_alone(small_set, stopped, tmp_path):
    with pytest.raises(ConfigError, match=r"within an epoch, where batch_size cannot change"):
        train(recipe(batch_size=45), small_set, tmp_path / "x", stopped, allow_changes=True)


def test_other_data_is_another_run(small_set, stopped, tmp_path):
    dataset = PackedDataset(small_set, "train")
    with PackedWriter(tmp_path / "set", 64, {"train": 90, "val": 10}, dataset.class_names, "x", "box") as writer:
        for i in range(100):
            writer.add(*dataset[i % 90])
    with pytest.raises(ConfigError, match="the data another set than"):
        train(recipe(), tmp_path / "set", tmp_path / "x", stopped)


def stop_at(monkeypatch, epoch):
    start = TrainingTask.on_train_batch_start

    def stop(task, batch, index):
        if task.current_epoch == epoch:
            raise RuntimeError("stopped")
        start(task, batch, index)

    monkeypatch.setattr(TrainingTask, "on_train_batch_start", stop)


def judge_by(monkeypatch, errors):
    """The epochs' top-1 errors are these."""
    end = TrainingTask.on_validation_epoch_end

    def judge(task):
        end(task)
        task.result = replace(task.result, top1_error=errors[task.current_epoch])

    monkeypatch.setattr(TrainingTask, "on_validation_epoch_end", judge)


def epoch_of(path: Path) -> int:
    return read_training_checkpoint(path)["gmsop"]["epoch"]


@pytest.mark.slow
def test_a_run_that_goes_back_gives_up_what_lies_further_on(small_set, tmp_path, monkeypatch):
    out, early = tmp_path / "run", tmp_path / "run" / "early.ckpt"
    judge_by(monkeypatch, [50, 40, 30, 35, 45])
    train(recipe(epochs=[3]), small_set, out)
    shutil.copy(out / "previous.ckpt", early)
    changed = recipe(epochs=[5], lr=0.01)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        stop_at(patch, 3)
        judge_by(patch, [50, 40, 48])
        train(changed, small_set, out, early, allow_changes=True)
    assert epoch_of(out / "best.ckpt") == 3
    assert "lr" in read_metrics(out / "metrics.csv")[2]
    run = train(changed, small_set, out, out)  # by its own recipe now
    assert [row["lr"] for _, row in sorted(read_metrics(out / "metrics.csv").items())] == [0.05, 0.05, 0.01, 0.01, 0.01]
    assert (run.best_epoch, run.best_top1_error) == (4, 35)
    assert epoch_of(out / "best.ckpt") == 4
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        stop_at(patch, 2)
        train(changed, small_set, out, early, allow_changes=True)
    assert epoch_of(find_checkpoint(out)) == 2


def test_of_other_data_the_best_epoch_is_found_anew(small_set, tmp_path, monkeypatch):
    dataset = PackedDataset(small_set, "train")
    with PackedWriter(tmp_path / "set", 64, {"train": 90, "val": 10}, dataset.class_names, "x", "box") as writer:
        for i in range(100):
            writer.add(*dataset[i % 90])
    judge_by(monkeypatch, [10, 50, 40])
    train(recipe(epochs=[1]), small_set, tmp_path / "run")
    run = train(recipe(epochs=[3]), tmp_path / "set", tmp_path / "run", tmp_path / "run", allow_changes=True)
    assert (run.best_epoch, run.best_top1_error) == (3, 40)
    assert epoch_of(run.folder / "best.ckpt") == 3


@pytest.mark.filterwarnings("ignore::gmsop.errors.TrainingWarning")
def test_the_best_epoch_is_one_that_could_be_written(small_set, tmp_path, monkeypatch):
    judge_by(monkeypatch, [40, 10, 30, 20])
    write = checkpoints._write

    def full(checkpoint, path):
        if checkpoint["gmsop"]["epoch"] == 2:
            raise OSError(28, "No space left on device")
        write(checkpoint, path)

    monkeypatch.setattr(checkpoints, "_write", full)
    run = train(recipe(epochs=[4]), small_set, tmp_path / "run")
    assert (run.best_epoch, run.best_top1_error) == (4, 20)
    assert epoch_of(run.folder / "best.ckpt") == 4
    assert np.load(run.folder / "validation.npz")["epoch"] == 3  # counted from 0


def test_a_requeued_job_goes_on_with_its_own_folder_whatever_it_was_told(small_set, stopped, tmp_path, monkeypatch):
    settings, out = recipe(checkpoint_every=1), tmp_path / "x"
    (out / ".gmsop-0123456789abcdef.part").parent.mkdir()
    (out / ".gmsop-0123456789abcdef.part").write_text("half of one")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        stop_at(patch, 2)
        train(recipe(checkpoint_every=1, epochs=[3]), small_set, out, stopped, allow_changes=True)
    assert not list(out.glob(".*"))
    with pytest.raises(ConfigError, match="already holds a run"):
        train(settings, small_set, out, stopped)
    for job in ("SLURM", "TORCHELASTIC"):
        with monkeypatch.context() as patch, pytest.raises(RunComplete, match=f"{out}/last.ckpt: the run is complete"):
            patch.setenv(f"{job}_RESTART_COUNT", "1")
            train(settings, small_set, out, stopped, allow_changes=True)


def test_an_epoch_of_another_number_of_batches_is_not_entered():
    saved = {"gmsop": {"images": 60, "passes": 4, "world_size": 1}}
    require_same_passes(saved, 4)
    with pytest.raises(
        ConfigError, match=r"of 4 batches per process; on this number of processes it has 3. Go on with 1"
    ):
        require_same_passes(saved, 3)
    saved["gmsop"]["images"] = 0
    require_same_passes(saved, 3)


def test_averaging_is_not_switched_off(small_set, tmp_path):
    train(recipe(epochs=[1], ema_decay=0.9), small_set, tmp_path / "run")
    with pytest.raises(ConfigError, match="ema_decay can be changed, but not switched off"):
        train(recipe(epochs=[2]), small_set, tmp_path / "x", tmp_path / "run", allow_changes=True)


@pytest.mark.slow
def test_who_started_the_process_says_how_many_there_are(small_set, tmp_path, monkeypatch):
    """Inside a Slurm job torchrun's numbers count; and in the shell of an allocation nobody has started the others."""

    def make(*args, **options):
        seen.append([type(plugin).__name__ for plugin in options["plugins"]])
        return Trainer(*args, **options)

    seen: list[list[str]] = []
    Trainer = engine.Trainer  # noqa: N806
    monkeypatch.setattr(engine, "Trainer", make)
    slurm = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0",
             "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"}  # fmt: skip
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1",
                "GROUP_RANK": "0"}  # fmt: skip
    allocation = {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "mine", "SLURM_NODELIST": "localhost"}
    strange = {"SLURM_NTASKS": "x", "SLURM_RESTART_COUNT": "x", "WORLD_SIZE": "0"}
    for i, variables in enumerate((slurm, slurm | torchrun, allocation, slurm | {"SLURM_NTASKS": "4"}, strange)):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            train(recipe(epochs=[1]), small_set, tmp_path / str(i), accelerator="cpu", devices=1)
    ours, lightning = ["CheckpointFiles", "SLURMEnvironment"], ["CheckpointFiles", "LightningEnvironment"]
    assert seen == [ours, ["CheckpointFiles"], lightning, lightning, lightning]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "0")
    with pytest.raises(ConfigError, match="WORLD_SIZE '0', which cannot be"):
        train(recipe(epochs=[1]), small_set, tmp_path / "x", accelerator="cpu", devices=1)


def test_two_runs_cannot_share_a_folder(small_set, tmp_path):
    out = tmp_path / "run"
    with alone_in(out), pytest.raises(ConfigError, match="another process trains into this folder"):
        train(recipe(epochs=[1]), small_set, out)
    assert not out.exists()
    train(recipe(epochs=[1]), small_set, out)
    assert not list(out.glob(".*"))


@pytest.mark.slow
def test_a_killed_reading_process_is_one_line(small_set, tmp_path, monkeypatch):
    step = TrainingTask.training_step

    def kill(task, batch, index):
        if (task.current_epoch, index) == (1, 0):
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            time.sleep(1)
        return step(task, batch, index)

    settings, out = recipe(num_workers=1, checkpoint_every=1, loader="memmap"), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(TrainingTask, "training_step", kill)
        message = r"^a process that reads images \(pid \d+\) .*memory runs out.*gmsop train --resume .*run$"
        with pytest.raises(DataError, match=message):
            train(settings, small_set, out)
    assert train(settings, small_set, out, out).result.images == 40


def test_another_models_checkpoint_is_not_resumed(small_set, stopped, tmp_path):
    with pytest.raises(CheckpointError, match=r"another model \(name gm_sop_4_2_tiny, the recipe's gap_tiny"):
        train(recipe(model="gap_tiny"), small_set, tmp_path / "x", stopped, allow_changes=True)
    with pytest.raises(CheckpointError, match="no such file"):
        train(recipe(), small_set, tmp_path / "x", tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match="no checkpoint to go on from"):
        train(recipe(), small_set, tmp_path / "x", tmp_path)
    assert not (tmp_path / "x").exists()


def test_a_run_that_goes_on_leaves_no_weights_of_its_earlier_end(small_set, tmp_path, monkeypatch):
    run = train(recipe(epochs=[1]), small_set, tmp_path / "run")
    assert (run.folder / "model.safetensors").exists()

    def stop(*_: object) -> None:
        raise RuntimeError("stopped")

    monkeypatch.setattr(TrainingTask, "training_step", stop)
    with pytest.raises(RuntimeError, match="stopped"):
        train(recipe(epochs=[2]), small_set, run.folder, run.folder, allow_changes=True)
    assert not (run.folder / "model.safetensors").exists()
    assert (run.folder / "best.ckpt").exists()


def test_a_run_that_does_not_say_its_images_is_not_resumed_on_others(small_set, stopped, tmp_path, capfd):
    shutil.copytree(stopped, tmp_path / "x")
    (tmp_path / "x" / "environment.json").unlink()
    assert main(["train", "--resume", str(tmp_path / "x")]) == 1
    assert "nothing there says on which images the run was trained; pass --data" in capfd.readouterr().err
    (tmp_path / "y").mkdir()
    shutil.copy(stopped / "recipe.yaml", tmp_path / "y")
    assert main(["train", "--resume", str(tmp_path / "y")]) == 1
    assert main(["train", "--resume", str(tmp_path / "x"), "--data", str(small_set)]) == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c["gmsop"].update(epoch=5),
        lambda c: c["gmsop"].update(epoch="1"),
        lambda c: c["gmsop"].update(images=-1),
        lambda c: c["gmsop"]["totals"].update(loss=torch.zeros(3)),
        lambda c: c["gmsop"]["totals"].clear(),
        lambda c: c["gmsop"].update(rows={"metrics.csv": {3: {}}}),
        lambda c: c["gmsop"].update(recipe={"epochs": 10**9}),
        lambda c: c["optimizer_states"][0]["state"][0].update(momentum_buffer=torch.zeros(2)),
        lambda c: c["optimizer_states"][0]["param_groups"].pop(),
        lambda c: c.update(optimizer_states=[]),
        lambda c: c.update(loops={}),
        lambda c: c.update(callbacks={}),
    ],
)
def test_a_checkpoint_of_nonsense_is_refused_when_it_is_opened(small_set, stopped, tmp_path, damage):
    checkpoint = torch.load(stopped / "last.ckpt", weights_only=True)
    damage(checkpoint)
    torch.save(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"x\.ckpt"):
        train(recipe(checkpoint_every=1), small_set, tmp_path / "x", tmp_path / "x.ckpt")


def test_rows_that_an_older_checkpoint_does_not_know(small_set, stopped, tmp_path):
    """Without its own, it takes those of the files; without those, the figures of the first epoch would be gone."""
    shutil.copytree(stopped, tmp_path / "x")
    checkpoint = torch.load(tmp_path / "x" / "last.ckpt", weights_only=True)
    del checkpoint["gmsop"]["rows"]
    torch.save(checkpoint, tmp_path / "x" / "last.ckpt")
    shutil.copytree(tmp_path / "x", tmp_path / "y")
    (tmp_path / "x" / "timing.csv").unlink()
    run = train(recipe(checkpoint_every=1), small_set, tmp_path / "x", tmp_path / "x")
    assert sorted(read_metrics(run.folder / "metrics.csv")) == sorted(read_metrics(run.folder / "timing.csv")) == [0, 1]
    assert checkpoints.read_whole(run.folder / "last.ckpt")["gmsop"]["rows"]["metrics.csv"].keys() == {0, 1}
    (tmp_path / "y" / "metrics.csv").unlink()
    with pytest.raises(CheckpointError, match=r"metrics\.csv: missing or damaged"):
        train(recipe(checkpoint_every=1), small_set, tmp_path / "y", tmp_path / "y")
