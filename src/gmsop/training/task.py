"""The training task does with every batch what a recipe asks for, and counts on the way."""

import math
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn
from torch.nn import functional as F

from gmsop.engine.messages import warn
from gmsop.errors import TrainingError
from gmsop.evaluation.error_rates import Evaluation, EvaluationTask
from gmsop.models.classifier import PooledClassifier
from gmsop.models.foreign_loops import require_no_balance_of_its_own
from gmsop.ops import balance_loss
from gmsop.runs.metrics import METRICS
from gmsop.training.augment import augment_pixels, mix, random_flip
from gmsop.training.checkpoints import last_good
from gmsop.training.clock import TIMING, EpochClock
from gmsop.training.epoch_rows import EpochRows
from gmsop.training.non_finite import all_agree, first_non_finite, non_finite_weights
from gmsop.training.optimizer import create_optimizer, set_step
from gmsop.training.parameter_groups import set_learning
from gmsop.training.recipe import Recipe
from gmsop.training.resume import require_same_start, rows_before
from gmsop.training.schedule import rate_and_momentum
from gmsop.training.totals import EpochTotals, epoch_means
from gmsop.utils.files import WriteError
from gmsop.weights.model_file import describe

MAX_SKIPPED = 10
"""Passes in a row whose loss is not finite, after which `non_finite: skip` gives up."""


class TrainingTask(EvaluationTask):
    """Train as a `Recipe` describes.

    Args:
        folder: the run's, where `metrics.csv` and `timing.csv` go; None: nowhere.
        data: fingerprint of the training set, for the checkpoints.
        frozen: parameters that do not learn, at first or at all.
    """

    def __init__(
        self,
        model: PooledClassifier,
        recipe: Recipe,
        folder: Path | None = None,
        data: str = "",
        frozen: Sequence[nn.Parameter] = (),
    ) -> None:
        super().__init__(model)
        require_no_balance_of_its_own(model)  # the recipe's stands for it
        self.recipe, self.folder, self.data = recipe, folder, data
        self.totals = EpochTotals(0 if model.gate is None else model.gate.num_components)
        self.frozen = list(frozen)
        self.classifier_share: float | None = None
        """What `classifier_lr_scale: auto` was found to be."""
        self._erasing = RandomErasing(recipe.random_erasing, device="cpu") if recipe.random_erasing else None
        self.row: dict[str, float] = {}
        """Row of `metrics.csv` for the epoch that was validated last."""
        self.clock = EpochClock(None if folder is None else folder / TIMING)
        self.rows = EpochRows(None if folder is None else folder / METRICS)
        self.began = False
        """Whether a step was tried, so that what fails is not the checkpoint gone on from."""
        self._skipped_in_a_row = 0
        self._drop_step = False
        self._named = False

    # --- the optimiser ---

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Computed on each device, it could differ in the last digit.
        self.classifier_share = self.trainer.strategy.broadcast(self.classifier_share)
        return create_optimizer(self.model, self.recipe, self.classifier_share)

    def set_rates(self, optimizer: torch.optim.Optimizer, epoch: int, step: int, steps_per_epoch: int) -> None:
        """Set all that the recipe says of the optimiser, for one step, whatever a checkpoint said before."""
        factor, momentum = rate_and_momentum(self.recipe, epoch, step, steps_per_epoch)
        set_step(optimizer, self.recipe, factor, momentum)
        self._rate = factor * self.recipe.lr

    # --- the step ---

    def on_train_start(self) -> None:
        self.began = True
        require_same_start(self.trainer, self.device)
        self.clock.begin()
        if self.trainer.is_global_zero:
            self.clock.enter(self.current_epoch)

    def on_train_epoch_start(self) -> None:
        set_learning(self.model, self.recipe, self.frozen, self.current_epoch)
        self.clock.begin()

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        # All randomness of a pass (crops, flips, dropout, noise, ties) follows from the seed and the place of the pass,
        # so that a run goes on from any step exactly as one that was never stopped.
        place = np.random.SeedSequence((self.recipe.seed, self.current_epoch, index, self.global_rank))
        seed = int(place.generate_state(1, np.uint64)[0])
        torch.manual_seed(seed)
        random.seed(seed)  # timm's random erasing draws from it
        accumulate = self.recipe.accumulate
        steps = math.ceil(self.trainer.num_training_batches / accumulate)
        self.set_rates(self.trainer.optimizers[0], self.current_epoch, index // accumulate, steps)
        if self.recipe.non_finite == "skip":
            self._statistics = [buffer.clone() for buffer in self.model.buffers()]

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        recipe = self.recipe
        images, labels = batch
        inputs = self.augmented(images)
        inputs, targets = mix(inputs, labels, recipe, self.model.num_classes)
        logits, routing = self.model(inputs, return_routing=True)
        cross_entropy = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
        loss, balance = cross_entropy, None
        if routing is not None:
            balance = balance_loss(routing.dense, across_ranks=True)
            step_images = self._images_of_step(index, len(labels)) * self.trainer.world_size
            loss = loss + recipe.balance_weight / step_images * balance
        self.clock.begin_pass()
        finite = loss.detach().isfinite()
        if not all_agree(finite):
            self._not_finite(inputs, index, here=not finite)
            # Lightning takes None on one device only. So all ranks contribute a gradient of zeros.
            return torch.stack([p.sum() * 0 for p in self.model.parameters() if p.requires_grad]).sum()
        self._skipped_in_a_row = 0
        with torch.no_grad():
            self.totals.update(cross_entropy, logits, labels, routing, balance)
        share = len(labels) / self._images_of_step(index, len(labels))
        return loss * (recipe.accumulate * share)  # Lightning divides by `accumulate`

    def augmented(self, images: Tensor) -> Tensor:
        """Turn uint8 images (b, S, S, 3) into the model's input, with what the recipe changes at random."""
        inputs = self.prepare(augment_pixels(images, self.recipe))
        if self.recipe.images == "squares":  # photographs come flipped
            inputs = random_flip(inputs, self.recipe.flip)
        if self._erasing is not None:
            self._erasing.device = inputs.device
            inputs = self._erasing(inputs)
        return inputs

    def _images_of_step(self, index: int, images: int) -> int:
        """Return how many images this rank has in all passes of a step, of which one pass has `images`.

        The epoch's last step may have fewer passes, and its last pass fewer images.
        """
        if self.recipe.accumulate == 1:
            return images
        size = self.recipe.batch_size // self.trainer.world_size // self.recipe.accumulate
        first = index // self.recipe.accumulate * self.recipe.accumulate
        passes = min(self.recipe.accumulate, self.trainer.num_training_batches - first)
        loader: Any = self.trainer.train_dataloader
        last = len(loader.sampler) - (first + passes - 1) * size
        return int((passes - 1) * size + min(size, last))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._drop_step:  # without gradients an optimiser leaves weights and its state alone
            optimizer.zero_grad(set_to_none=True)
        self._drop_step = False

    def _not_finite(self, inputs: Tensor, index: int, here: bool) -> None:
        """Skip the step, if the recipe says so and not too often; or stop, saying all that is known."""
        where = f"step {self.trainer.global_step} (epoch {self.current_epoch + 1}, batch {index + 1})"
        if self.recipe.non_finite == "stop":
            raise self._explained(where, inputs, index, here)
        for buffer, before in zip(self.model.buffers(), self._statistics, strict=True):
            buffer.copy_(before)
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row == MAX_SKIPPED:
            raise self._explained(f"{MAX_SKIPPED} passes in a row, up to {where}", inputs, index, here)
        self._drop_step = True
        if self.trainer.is_global_zero:  # all ranks skip it, one counts it
            self.totals.skip()
        warn(f"the loss is not finite in {where}: skipped")

    def _explained(self, where: str, inputs: Tensor, index: int, here: bool) -> TrainingError:
        if not here:
            return TrainingError(f"the loss is not finite in {where} on another rank, which says more")
        loader: Any = self.trainer.train_dataloader
        size = loader.batch_size
        indices = loader.sampler.indices(self.current_epoch)[index * size : (index + 1) * size]
        if self.recipe.flip == "both":
            indices = [i % (loader.sampler.length // 2) for i in indices]
        if weights := non_finite_weights(self.model):
            began = f"the weights {weights}, which the step before made so"
        else:
            began = first_non_finite(self.model, inputs) or "the loss itself: all layers are finite"
        return TrainingError(
            f"the loss is not finite in {where}; it began in {began}; the batch's images in the training set: "
            f"{indices}; {last_good(self.folder)}. A smaller --lr is the first thing to try"
        )

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        self.clock.end_pass(self.recipe.batch_size / self.recipe.accumulate)

    def bar(self) -> dict[str, str]:
        """Return what the progress bar shows, from this rank's images."""
        if not self.totals.passes:
            return {}
        means = self.totals.so_far()
        shown = {"loss": f"{means['train/loss']:.3f}", "error": f"{means['train/top1_error']:.1f} %"}
        speed = self.clock.speed
        return shown | ({"images/s": f"{speed:,.0f}"} if math.isfinite(speed) else {})

    # --- the epoch ---

    def on_validation_epoch_start(self) -> None:
        self.clock.end()
        self._reset()

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        skipped = self._skipped()
        self.result = result = replace(self._result(), skipped=skipped)
        self._name_unread(skipped)
        self.row = {
            "lr": self._rate,
            **epoch_means(self.totals.gather()),
            "val/loss": result.loss,
            "val/top1_error": result.top1_error,
            "val/top5_error": result.top5_error,
        }
        if result.usage is not None:
            self.row |= {"val/gate_entropy": result.usage.entropy, "val/dead_components": float(len(result.usage.dead))}
        self.totals.reset()

    def _name_unread(self, reasons: list[str]) -> None:
        """Warn of the images to validate on that cannot be read, once."""
        if reasons and not self._named:
            self._named = True
            for reason in reasons[:20]:
                warn(f"{reason}: does not count in validation")
            warn(f"{len(reasons)} images to validate on cannot be read and do not count")

    def on_train_epoch_end(self) -> None:
        self.log_dict({name: torch.tensor(value) for name, value in self.row.items()})
        if not self.trainer.is_global_zero:
            return
        try:
            self.rows.write(self.current_epoch, self.row)
            self.clock.write(self.current_epoch, self.result.seconds)
        except WriteError as error:  # the row is kept, and written after the next epoch
            warn(str(error))

    # --- the checkpoint ---

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        batches: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        recipe = self.recipe
        over = epochs.processed == epochs.ready
        if not over and self.trainer.is_global_zero:
            with suppress(WriteError):
                self.clock.write_place(self.current_epoch)
        checkpoint["gmsop"] = {
            "model": describe(self.model),
            "recipe": recipe.to_dict(),
            "epoch": epochs.processed,
            "images": 0 if over else batches.processed * (recipe.batch_size // recipe.accumulate),
            "passes": self.trainer.num_training_batches,
            "world_size": self.trainer.world_size,
            "data": self.data,
            "totals": self.totals.gather(),
            "skipped_in_a_row": self._skipped_in_a_row,
            "classifier_share": self.classifier_share,
            "validation": _kept(self.result) if over else {},
            "rows": {METRICS: self.rows.rows, TIMING: self.clock.rows.rows},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["gmsop"]
        self.totals.load(saved["totals"], self.global_rank, self.trainer.world_size)
        self._skipped_in_a_row = saved.get("skipped_in_a_row", 0)
        if self.folder is not None:
            for rows in (self.rows, self.clock.rows):
                assert rows.file is not None
                rows.rows = rows_before(checkpoint, rows.file)


def _kept(result: Evaluation) -> dict[str, Tensor]:
    """Return what `validation.npz` says of an epoch besides its number."""
    arrays = {"confusion": result.confusion}
    if result.usage is not None:
        arrays |= {"gate_weight": result.usage.weight, "gate_chosen": result.usage.chosen}
    return arrays
