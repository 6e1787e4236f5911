"""Compiled heads take batches of any size: no more graphs than timm's resnet18 needs, which is three."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from gmsop import nn, ops

SIZES = (8, 3, 5, 16, 9)
HEADS = {
    "mean": nn.GlobalAvgPool(6),
    "sr_sop": nn.ISqrtCovPool(6),
    "exact root": nn.ISqrtCovPool(6, root="eigh"),
    "gm_sop": nn.GatedMixture.second_order(6, 3, 2, hidden_dim=6, reduced_dim=4, gate_dims=(4,)),
    "gm_gap": nn.GatedMixture.first_order(6, 3, 2, reduced_dim=4, gate_dims=(4,)),
    "second_order_pool": ops.second_order_pool,
    "covariance_pool": ops.covariance_pool,
}


@pytest.mark.parametrize("dynamic", [None, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("training", [pytest.param(False, marks=pytest.mark.slow), True], ids=["eval", "train"])
@pytest.mark.parametrize("name", HEADS)
def test_batches_of_any_size(name, training, dynamic):
    head = HEADS[name]
    if isinstance(head, torch.nn.Module):
        head.train(training)
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(head, backend=counter, fullgraph=True, dynamic=dynamic)
    for size in SIZES:
        compiled(torch.randn(size, 6, 4, 3, requires_grad=training))
    assert counter.frame_count <= 3
