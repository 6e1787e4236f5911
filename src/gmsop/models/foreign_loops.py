"""What training loops need that are not gmsop's and see a model's logits alone."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmsop.errors import ConfigError
from gmsop.models.classifier import PooledClassifier
from gmsop.nn import Routing
from gmsop.ops import balance_loss


class BalancedCrossEntropy(nn.Module):
    """The mean cross-entropy of a mixture's logits, with the balance loss of its gate added.

    `criterion(logits, targets)`, as any loss: it looks at what the gate decided in the forward pass before. Without a
    gate it is the cross-entropy. In evaluation nothing is added.

    Args:
        model: a `PooledClassifier`, or what wraps one.
        balance_weight: weight against a cross-entropy SUMMED over the batch of all ranks, as the paper states it. Where
            n passes are accumulated to one step, give a share of 1 / n.
        label_smoothing: share of the target spread evenly over all classes.

    Raises:
        ConfigError: there is no `PooledClassifier` in `model`, or its mixture adds the balance loss by itself.

    Source: GM-SOP (NeurIPS 2018), equation 6.
    """

    def __init__(self, model: nn.Module, balance_weight: float = 100.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.balance_weight, self.label_smoothing = balance_weight, label_smoothing
        self._routing: Routing | None = None
        classifier = classifier_in(model)
        require_no_balance_of_its_own(classifier)
        if classifier.gate is not None:
            classifier.gate.register_forward_hook(self._keep)

    def _keep(self, gate: nn.Module, inputs: Any, routing: Routing) -> None:
        self._routing = routing if gate.training else None

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        routing, self._routing = self._routing, None
        if routing is None:
            return loss
        return loss + balance_term(routing, self.balance_weight)


def balance_term(routing: Routing, balance_weight: float) -> Tensor:
    """Return what is added to a mean cross-entropy: `balance_weight` / images of all ranks times the balance loss."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    ranks = torch.distributed.get_world_size() if there else 1
    return balance_weight / (ranks * len(routing.dense)) * balance_loss(routing.dense, across_ranks=True)


def require_no_balance_of_its_own(model: PooledClassifier) -> None:
    """Refuse to add the balance loss of a mixture that adds it by itself.

    Raises:
        ConfigError: the model's mixture has a `balance_weight`.
    """
    own = getattr(model.pool, "balance_weight", 0.0)
    if own:
        raise ConfigError(f"the mixture adds its balance loss by itself, with balance_weight {own}: twice is too often")


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    classifier_lr_scale: float | None = None,
    momentum: float = 0.9,
) -> list[dict[str, Any]]:
    """Make groups of parameters for any optimiser, the classifier's with a rate that does not overshoot.

    A head that ends in BatchNorm gives its classifier V numbers of variance 1, so that few classes learn too fast: with
    C classes a linear classifier overshoots at rates above 2 (1 + momentum) C / e, where e, the largest eigenvalue of
    the numbers' second moment, is at most V. That bound, without images to know more, limits the classifier's rate.

    Args:
        lr: rate of all other parameters.
        weight_decay: of all of them.
        classifier_lr_scale: the classifier's share of `lr`; None: 1, or what the bound leaves of it.
        momentum: of the optimiser, for the bound.

    Returns:
        Two groups with `lr`, `lr_scale` (which timm's schedules multiply by) and `weight_decay`.

    Raises:
        ConfigError: there is no `PooledClassifier` in `model`, or a number that cannot be.
    """
    if lr <= 0 or (classifier_lr_scale is not None and classifier_lr_scale <= 0):
        raise ConfigError(f"param_groups: lr {lr} and classifier_lr_scale {classifier_lr_scale} must be positive")
    found = classifier_in(model)
    classifier = [p for p in found.get_classifier().parameters() if p.requires_grad]
    apart = {id(p) for p in classifier}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in apart]
    scale = classifier_lr_scale
    if scale is None:
        limit = 2 * (1 + momentum) * found.num_classes / found.head_hidden_size
        scale = min(1.0, limit / lr) if isinstance(found.norm, nn.BatchNorm1d) else 1.0
    groups = [{"params": rest, "lr_scale": 1.0}, {"params": classifier, "lr_scale": scale}]
    return [{**group, "lr": lr * float(group["lr_scale"]), "weight_decay": weight_decay} for group in groups]  # type: ignore[arg-type]


def classifier_in(model: nn.Module) -> PooledClassifier:
    """Find the `PooledClassifier` in a model that something may have wrapped.

    Raises:
        ConfigError: there is none.
    """
    for module in model.modules():
        if isinstance(module, PooledClassifier):
            return module
    raise ConfigError(f"there is no model of gmsop's in this {type(model).__name__}")
