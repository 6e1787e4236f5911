"""Measure the training step's table of `gmsop benchmark`."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gmsop import ops
from gmsop.models import create_model
from gmsop.speed.registry import register_table
from gmsop.speed.timing import Measurement, compare


@register_table("step")
def step_table(device: torch.device, small: bool = False) -> Iterator[Measurement]:
    """A training step of ResNet-18 on images that are there already: forward, backward, SGD.

    On a GPU it is compiled, in bfloat16 autocast and channels_last, at batch 256; on a CPU in float32 at batch 16.
    """
    batch = 2 if small else 256 if device.type == "cuda" else 16
    names = ["gap_resnet18", "gm_sop_16_8_resnet18"] + ([] if small else ["sr_sop_resnet18", "gm_gap_16_8_resnet18"])
    runs = {name: training_step(name, batch, device) for name in names}
    errors = {name: 0.0 if run().isfinite() else torch.nan for name, run in runs.items()}
    case, bounds = f"batch {batch}, 64 x 64", dict.fromkeys(names, 0.0)
    yield from compare(case, runs, errors, bounds, device, rounds=3 if small else 9)


def training_step(name: str, batch: int, device: torch.device) -> Callable[[], Tensor]:
    """Return a function that runs one step of `step_table` and returns the loss, on the device."""
    images = torch.randn(batch, 3, 64, 64, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,), device=device)
    model = create_model(name).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    cuda = device.type == "cuda"
    forward = torch.compile(model) if cuda else model

    def step() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            logits, routing = forward(images, return_routing=True)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            if routing is not None:
                loss = loss + 100 / len(images) * ops.balance_loss(routing.dense)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
