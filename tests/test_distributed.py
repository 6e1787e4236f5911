"""Two processes with half a batch each do what one does with the whole."""

import os
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import gmsop
from compare import relative_error
from gmsop.ops import balance_loss

WEIGHT = 100


def build() -> torch.nn.Module:
    """Batch statistics fixed, since they are not part of the question; a gate that tells images apart."""
    torch.manual_seed(0)
    model = gmsop.create_model("gm_sop_4_2_tiny", 10).double().eval()
    torch.nn.init.normal_(model.pool.gate.weight)
    model.pool.gate.noise_weight.requires_grad_(False)  # no noise in evaluation
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(8, 3, 32, 32, dtype=torch.double), torch.randint(10, (8,))


def loss_of(model, images, labels, ranks):
    logits, routing = model(images, return_routing=True)
    balance = balance_loss(routing.dense, across_ranks=ranks > 1)
    return F.cross_entropy(logits, labels) + WEIGHT / (len(labels) * ranks) * balance, balance


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = DistributedDataParallel(build())
    images, labels = batch()
    loss, balance = loss_of(model, images[rank * 4 : rank * 4 + 4], labels[rank * 4 : rank * 4 + 4], 2)
    loss.backward()
    gradients = {name: p.grad for name, p in model.module.named_parameters() if p.requires_grad}
    torch.save(
        {"loss": loss.detach(), "balance": balance.detach(), "gradients": gradients}, Path(folder) / f"{rank}.pt"
    )
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without torch.distributed")
def test_loss_and_gradients_are_those_of_the_whole_batch(tmp_path):
    mp.spawn(one_rank, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    model = build()
    loss, balance = loss_of(model, *batch(), 1)
    loss.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(relative_error(r["balance"], balance) < 1e-12 for r in ranks)
    assert relative_error((ranks[0]["loss"] + ranks[1]["loss"]) / 2, loss) < 1e-12
    for name, gradient in expected.items():
        for r in ranks:
            assert relative_error(r["gradients"][name], gradient) < 1e-10, name
