"""timm's classification task, with a mixture's balance loss added to the loss."""

from typing import Any

from timm.task import ClassificationTask
from torch import Tensor

from gmsop.models.foreign_loops import balance_term, classifier_in, require_no_balance_of_its_own

WEIGHT = 100.0
"""Weight of the balance loss against a cross-entropy summed over the batch of all ranks, as the paper has it."""


class BalancedClassificationTask(ClassificationTask):
    """This task asks a model with a gate for its routing, and adds `WEIGHT` / batch size times the balance loss.

    Where n passes are accumulated to one step, `balance_weight` should be 1 / n of the weight.

    Source: GM-SOP (NeurIPS 2018), equation 6.
    """

    balance_weight = WEIGHT

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Any]:
        """Give loss and logits of a batch, as timm's task does."""
        model = classifier_in(self.trainable_module)
        if model.gate is None:
            return dict(super().forward(input, target))
        require_no_balance_of_its_own(model)
        output, routing = self.trainable_module(input, return_routing=True)
        return {"loss": self.criterion(output, target) + balance_term(routing, self.balance_weight), "output": output}
