"""With `sync_batchnorm`, two processes with half a batch each do what one with the whole does, BatchNorm included.

PyTorch has the operators of SyncBatchNorm for CUDA alone; `cpu_sync_batchnorm` stands in for them.
"""

import cpu_sync_batchnorm
import pytest
import torch
import torch.multiprocessing as mp
from child import be_rank, free_port
from global_step import PREFERENCES, Step, batch
from tiny import recipe, weights
from torch.nn import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel

from compare import relative_error
from gmsop.training import build
from gmsop.training.run import train

pytestmark = [
    pytest.mark.xdist_group("processes"),  # each starts some: not two of these at a time
    pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without torch.distributed"),
]


def statistics(step: Step) -> dict[str, torch.Tensor]:
    return {name: buffer for name, buffer in step.task.model.named_buffers() if "running" in name}


def one_rank(rank: int, folder: str, set_path: str, port: int) -> None:
    be_rank(rank, port)
    operators = cpu_sync_batchnorm.install()
    torch.distributed.init_process_group("gloo")
    share, found = slice(rank * 4, rank * 4 + 4), {}
    for name, preference in PREFERENCES.items():
        images, labels = batch()
        step = SyncBatchNorm.convert_sync_batchnorm(Step(preference[share], 2).train())  # as Lightning does
        parallel = DistributedDataParallel(step)  # must live until the gradients are there
        loss = parallel(images[share], labels[share])
        loss.backward()
        found[name] = {"loss": loss.detach(), "gradients": step.gradients(), "statistics": statistics(step)}
    torch.save(found, f"{folder}/{rank}.pt")
    build._require_possible = lambda *_: None  # which refuses CPUs
    for sync in (True, False):
        train(settings(sync), set_path, f"{folder}/{sync}", accelerator="cpu")
    torch.distributed.destroy_process_group()
    del operators


def settings(sync: bool):
    """Without flips and gate, whose draws are each rank's own; so slow that rounding is not blown up."""
    return recipe(model="parametric_sop_tiny", sync_batchnorm=sync, flip="none", epochs=[1], lr=1e-5)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, small_set):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(one_rank, (str(folder), str(small_set), free_port()), nprocs=2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", PREFERENCES)
def test_loss_gradients_and_statistics_are_those_of_the_whole_batch(ranks, name):
    step = Step(PREFERENCES[name], 1).train()
    loss = step(*batch())
    loss.backward()
    found = [torch.load(ranks / f"{rank}.pt", weights_only=True)[name] for rank in (0, 1)]
    assert relative_error((found[0]["loss"] + found[1]["loss"]) / 2, loss.detach()) < 1e-12
    for rank in found:
        for key, running in statistics(step).items():
            assert relative_error(rank["statistics"][key], running) < 1e-12, key
        for key, gradient in step.gradients().items():  # a bias before BatchNorm has none but what rounding leaves
            assert (rank["gradients"][key] - gradient).norm() <= 1e-10 * gradient.norm() + 1e-14, key


@pytest.mark.slow
def test_a_run_has_the_statistics_of_the_whole_batches(ranks, small_set, tmp_path):
    train(settings(False), small_set, tmp_path / "run", accelerator="cpu", devices=1)
    expected = weights(tmp_path / "run")

    def distance(out):
        return max(relative_error(v, expected[name]) for name, v in weights(out).items() if "running" in name)

    assert distance(ranks / "True") < 1e-4 < 1e-2 < distance(ranks / "False")
