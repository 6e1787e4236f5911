"""Two processes with half a batch each do what one does with the whole."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp
import yaml
from child import be_rank, free_port
from global_step import PREFERENCES, Step, batch
from tiny import recipe, same, weights
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from compare import relative_error
from gmsop.data import PackedDataset, val_loader
from gmsop.errors import ConfigError
from gmsop.evaluation.error_rates import EvaluationTask, evaluate
from gmsop.models.names import create_model
from gmsop.ops import balance_loss
from gmsop.runs.metrics import read_metrics
from gmsop.training.resume import require_same_start
from gmsop.training.run import train
from gmsop.training.task import TrainingTask
from gmsop.training.totals import epoch_means
from gmsop.weights.model_file import load_model, save_model
from gmsop.weights.training_file import read_training_checkpoint

pytestmark = [
    pytest.mark.xdist_group("processes"),  # each starts some: not two of these at a time
    pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without torch.distributed"),
]

STD = (0.25, 0.25, 0.25)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """In each child process, however many machines they stand for and whatever is set outside: the same bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def one_rank(rank: int, folder: str, set_path: str, port: int) -> None:
    be_rank(rank, port)
    torch.distributed.init_process_group("gloo")
    share, found = slice(rank * 4, rank * 4 + 4), {}
    for name, preference in PREFERENCES.items():
        images, labels = batch()
        step = Step(preference[share], 2)
        parallel = DistributedDataParallel(step)  # must live until the gradients are there
        loss = parallel(images[share], labels[share])
        loss.backward()
        sums = step.task.totals.gather()
        found[name] = {"loss": loss.detach(), "gradients": step.gradients(), "totals": sums}
    found["balance"] = [balance_gradients(own, share) for own in (True, False)]
    found["starts"] = []
    for step in (3, 3 * rank):
        try:
            require_same_start(SimpleNamespace(world_size=2, current_epoch=0, global_step=step), torch.device("cpu"))
        except ConfigError as error:
            found["starts"].append(str(error))
    task = EvaluationTask(load_model(f"{folder}/model.safetensors"))
    task._reset()
    with torch.no_grad():
        for part in val_loader(PackedDataset(set_path, "val"), 7, 0, 2, rank):
            task._evaluate(part)
    result = task._result()
    found["evaluation"] = {"confusion": result.confusion, "loss": result.loss, "top5": result.top5_error,
                           "chosen": result.usage.chosen, "weight": result.usage.weight}  # fmt: skip
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def balance_gradients(own: bool, share: slice) -> list[torch.Tensor]:
    """The gate's gradients under DDP, with the balance loss added by the mixture itself, or by hand."""
    model = Step(PREFERENCES["everyone"][share], 2).task.model.train()
    model.pool.balance_weight = 12.5 if own else 0.0
    parallel = DistributedDataParallel(model)
    images, labels = batch()
    logits, routing = parallel(images[share].double().permute(0, 3, 1, 2) / 255, return_routing=True)
    loss = F.cross_entropy(logits, labels[share])
    (loss if own else loss + 12.5 * balance_loss(routing.dense, across_ranks=True)).backward()
    return [p.grad for p in model.gate.parameters() if p.requires_grad]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, small_set):
    folder = tmp_path_factory.mktemp("ranks")
    save_model(create_model("gm_sop_4_2_tiny", 10), folder / "model.safetensors")
    mp.spawn(one_rank, (str(folder), str(small_set), free_port()), nprocs=2)
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", PREFERENCES)
def test_loss_and_gradients_are_those_of_the_whole_batch(ranks, name):
    step = Step(PREFERENCES[name], 1)
    loss = step(*batch())
    loss.backward()
    found = [rank[name] for rank in ranks[1]]
    assert relative_error((found[0]["loss"] + found[1]["loss"]) / 2, loss.detach()) < 1e-12
    for key, gradient in step.gradients().items():
        for rank in found:
            if gradient.norm() == 0:  # a component that no image of either rank went to
                assert rank["gradients"][key].norm() == 0, key
            else:
                assert relative_error(rank["gradients"][key], gradient) < 1e-10, key
    chosen = step.task.totals.chosen
    assert (chosen == 0).tolist() == [False, False, name == "all starve", False]
    if name == "one rank starves":
        assert (found[0]["totals"]["chosen"] == 0).tolist() == [[False, False, True, True], [True, True, False, False]]


def test_a_mixtures_own_balance_loss_is_that_of_all_ranks(ranks):
    (own, by_hand), other = ranks[1][0]["balance"], ranks[1][1]["balance"]
    for a, b, c in zip(own, by_hand, other[0], strict=True):
        assert relative_error(a, b) < 1e-12
        assert torch.equal(a, c)
        assert a.norm() > 0


@pytest.mark.parametrize("name", PREFERENCES)
def test_gate_statistics_are_those_of_the_whole_batch(ranks, name):
    step = Step(PREFERENCES[name], 1)
    step(*batch())
    expected = epoch_means(step.task.totals.gather())
    for rank in ranks[1]:
        assert epoch_means(rank[name]["totals"]) == pytest.approx(expected, rel=1e-6)


def test_processes_that_would_begin_at_different_steps_are_refused(ranks):
    for rank in ranks[1]:
        (message,) = rank["starts"]
        assert "some processes begin at step 0, others at step 3" in message


def test_evaluation_counts_every_image_once(ranks, small_set):
    folder, found = ranks
    result = evaluate(load_model(folder / "model.safetensors"), PackedDataset(small_set, "val"))
    for rank in found:
        there = rank["evaluation"]
        assert torch.equal(there["confusion"], result.confusion)
        assert torch.equal(there["chosen"], result.usage.chosen)
        assert torch.allclose(there["weight"], result.usage.weight, atol=1e-5)
        assert there["loss"] == pytest.approx(result.loss, rel=1e-6)
        assert there["top5"] == pytest.approx(result.top5_error, rel=1e-6)


# --- whole runs, as a user starts them ---

SETTINGS = recipe(batch_size=30, checkpoint_every=1)


def command(tmp_path: Path, data: Path, out: Path, launcher: str, *more: str) -> list[str]:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(SETTINGS.to_dict()))
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if launcher == "torchrun" else []
    devices = [] if launcher == "torchrun" else ["--devices", "2"]
    words = ["-m", "gmsop.cli", "train", "--recipe", file, "--data", data, "--out", out, "--accelerator", "cpu"]
    return [str(word) for word in [sys.executable, *start, *words, *devices, *more]]


@pytest.fixture(scope="module")
def two(small_set, tmp_path_factory):
    """One process on each of two machines, as far as `torchrun` can tell, without a disk in common."""
    tmp_path = tmp_path_factory.mktemp("two")
    words = command(tmp_path, small_set, tmp_path / "run", "torchrun")
    at = words.index("--standalone")
    meet = f"localhost:{free_port()}"
    words[at : at + 3] = ["--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend", "c10d", "--rdzv_endpoint", meet]
    files = [(tmp_path / f"machine{i}").open("w+") for i in range(2)]
    outs = [str(tmp_path / "run"), str(tmp_path / "not shared")]
    machines = [
        subprocess.Popen([out if w == outs[0] else w for w in words], stdout=file, stderr=subprocess.STDOUT)
        for out, file in zip(outs, files, strict=True)
    ]
    statuses = [machine.wait(timeout=200) for machine in machines]
    text = "".join((tmp_path / f"machine{i}").read_text() for i in range(2))
    assert statuses == [0, 0], text
    assert text.count("epoch 2/2") == 1  # one process speaks
    assert text.count("best epoch") == 1
    assert "sync_dist" not in text
    assert "strides" not in text
    assert not Path(outs[1]).exists()
    return tmp_path / "run"


@pytest.mark.slow
def test_a_run_on_two_machines(two, small_set):
    saved = read_training_checkpoint(two / "last.ckpt")["gmsop"]
    assert (saved["epoch"], saved["world_size"]) == (2, 2)
    metrics = read_metrics(two / "metrics.csv")
    assert sorted(metrics) == [0, 1]
    result = evaluate(load_model(two / "last.ckpt"), PackedDataset(small_set, "val"))
    assert result.images == 40
    assert result.top1_error == pytest.approx(metrics[1]["val/top1_error"])


@pytest.mark.slow
def test_stopped_on_two_processes_and_gone_on_with(two, small_set, tmp_path):
    """Lightning's own launcher this time; SIGTERM reaches the first process alone."""
    out = tmp_path / "run"
    words = command(tmp_path, small_set, out, "lightning")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not (out / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=100)
    assert process.returncode == 143, text
    assert "go on with: gmsop train --resume" in text
    saved = read_training_checkpoint(out / "last.ckpt")["gmsop"]
    assert saved["epoch"] < 2
    words = command(tmp_path, small_set, out, "torchrun", "--resume", str(out))
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert same(weights(out), weights(two))
    assert (out / "metrics.csv").read_text() == (two / "metrics.csv").read_text()


@pytest.mark.slow
def test_another_number_of_processes_goes_on_and_says_so(two, small_set, tmp_path, capfd):
    out = tmp_path / "run"
    run = train(SETTINGS, small_set, out, two / "previous.ckpt", progress=True)
    assert "on 1 process where there were 2: the same images" in capfd.readouterr().out
    assert run.result.images == 40


def poisoned(rank: int, folder: str, set_path: str, port: int) -> None:
    """A rank, of which the second has a loss that is not finite in the third pass."""
    be_rank(rank, port)
    original = TrainingTask.training_step

    def step(task, batch, index):
        if (rank, index) == (1, 2):
            task.model.pretrained_cfg["std"] = (float("nan"),) * 3
        try:
            return original(task, batch, index)
        finally:
            task.model.pretrained_cfg["std"] = STD

    TrainingTask.training_step = step
    settings = recipe(non_finite="skip", accumulate=2, batch_size=32, epochs=[1])
    train(settings, set_path, f"{folder}/run", accelerator="cpu")


@pytest.mark.slow
def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_all(small_set, tmp_path):
    mp.spawn(poisoned, (str(tmp_path), str(small_set), free_port()), nprocs=2)
    metrics = read_metrics(tmp_path / "run" / "metrics.csv")
    assert metrics[0]["train/skipped_passes"] == 1
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_a_batch_that_cannot_be_shared(small_set, tmp_path):
    for batch_size, way_out in ((31, "30 or 32, or use 1 of"), (2, "4, or use 1 of")):
        message = f"batch_size {batch_size} cannot be shared equally.*--batch_size {way_out} the devices"
        with pytest.raises(ConfigError, match=message):
            train(recipe(batch_size=batch_size), small_set, tmp_path / "x", devices=2, accelerator="cpu")
    assert not (tmp_path / "x").exists()
