"""Say after an epoch, in one line each, that a run probably does not work, and what to try."""

import math
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from gmsop.engine.messages import warn
from gmsop.evaluation.error_rates import Evaluation


class EarlyWarnings(Callback):
    """Warn after an epoch of what no run that works shows, each once.

    That is a loss above that of guessing, answers that are all one class, and components without work.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()

    def on_train_epoch_end(self, trainer: pl.Trainer, task: Any) -> None:
        result: Evaluation = task.result
        for what, text in _signs(task, result).items():
            if what not in self._said:
                self._said.add(what)
                warn(f"after epoch {trainer.current_epoch + 1}: {text}")


def _signs(task: Any, result: Evaluation) -> dict[str, str]:
    return signs_of_failure(task.row, result, task.model.num_classes, task.recipe.classifier_lr_scale == "auto")


def signs_of_failure(
    row: dict[str, float], result: Evaluation, num_classes: int, is_auto: bool = False
) -> dict[str, str]:
    """Return what is wrong after an epoch, each with what to try.

    Args:
        row: of `metrics.csv`.
        result: of the validation.
        is_auto: whether the classifier's rate was computed already.
    """
    found = {}
    guessing = math.log(num_classes)
    if row["train/loss"] > 1.05 * guessing:
        hint = "a longer --warmup_epochs" if is_auto else "--classifier_lr_scale auto"
        found["loss"] = (
            f"the training loss, {row['train/loss']:.2f}, is above that of guessing, {guessing:.2f}: try a smaller "
            f"--lr, or {hint}"
        )
    answered = result.confusion.sum(0)
    present = int((result.confusion.sum(1) > 0).sum())
    if present > 1 and int((answered > 0).sum()) == 1:
        found["one class"] = (
            "every image to validate on is taken for one class: try a smaller --lr, a longer --warmup_epochs, or more "
            "epochs"
        )
    dead, total = result.usage.dead if result.usage is not None else [], 0
    if result.usage is not None:
        total = result.usage.weight.shape[1]
    if dead and len(dead) > total / 2:
        found["gate"] = (
            f"{len(dead)} of {total} components get no image to validate on: try a larger --balance_weight, or fewer "
            "components, --model_args.num_components"
        )
    return found
