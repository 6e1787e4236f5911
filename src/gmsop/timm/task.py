"""timm's classification task, with a mixture's balance loss added to the loss."""

from typing import Any

from timm.task import ClassificationTask
from torch import Tensor

from gmsop.models.foreign_loops import classifier_in
from gmsop.ops import balance_loss

WEIGHT = 100.0
"""Weight of the balance loss against a cross-entropy summed over the batch, as the paper has it."""


class BalancedClassificationTask(ClassificationTask):
    """This task asks a model with a gate for its routing, and adds `WEIGHT` / batch size times the balance loss.

    Source: GM-SOP (NeurIPS 2018), equation 6.
    """

    balance_weight = WEIGHT

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Any]:
        """Give loss and logits of a batch, as timm's task does."""
        if classifier_in(self.trainable_module).gate is None:
            return dict(super().forward(input, target))
        output, routing = self.trainable_module(input, return_routing=True)
        balance = balance_loss(routing.dense, across_ranks=True)
        loss = self.criterion(output, target) + self.balance_weight / len(input) * balance
        return {"loss": loss, "output": output}
