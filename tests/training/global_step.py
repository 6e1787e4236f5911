"""One training step of a gated model, on one process or as DDP's forward: its loss, gradients and gate statistics."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from gmsop.models.names import create_model
from gmsop.nn import TopKGate
from gmsop.training.recipe import Recipe
from gmsop.training.task import TrainingTask

EVERYONE = torch.stack([99.0 * torch.eye(4)[[i % 4, (i + 1) % 4]].sum(0) for i in (0, 1, 2, 3) * 2])
ONE_RANK_STARVES = torch.tensor([[99.0, 99, 0, 0]] * 4 + [[0, 0, 99, 99.0]] * 4)
ALL_STARVE = torch.tensor([[9.0, 0, 0, 0], [0, 9, 0, 0], [0, 0, 0, 9], [9, 0, 0, 9]] * 2) - torch.tensor([0, 0, 99, 0])
PREFERENCES = {"everyone": EVERYONE, "one rank starves": ONE_RANK_STARVES, "all starve": ALL_STARVE}


class Preferring(TopKGate):
    """Adds to each image's scores what it is told, and no noise."""

    def forward(self, x, noise=None):
        routing = super().forward(x, x.new_zeros(len(x)))
        logits = routing.logits + self.preference
        gates, indices = logits.topk(self.top_k)
        return routing._replace(logits=logits, indices=indices, gates=gates.softmax(1))


class Step(nn.Module):
    """`preference`, (B, 4): what is added to the scores of this rank's images. In evaluation, unless told otherwise."""

    def __init__(self, preference: Tensor, ranks: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        model = create_model("gm_sop_4_2_tiny", 10)
        model.pretrained_cfg.update(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
        gate = model.pool.gate
        gate.__class__ = Preferring
        gate.preference = preference.double()
        nn.init.normal_(gate.weight)
        gate.noise_weight.requires_grad_(False)  # without noise it has no gradient
        self.task = TrainingTask(model.double().eval(), Recipe(flip="none"))
        self.task._trainer = SimpleNamespace(world_size=ranks, num_training_batches=1)

    def forward(self, images, labels):
        return self.task.training_step((images, labels), 0)

    def gradients(self) -> dict[str, Tensor]:
        return {name: p.grad for name, p in self.task.model.named_parameters() if p.requires_grad}


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8), torch.randint(10, (8,))
