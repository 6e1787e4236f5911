"""A training run prints a line per epoch, and in a log file also a line a minute."""

import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from gmsop.engine.messages import duration

EVERY = 60.0
"""Seconds between the lines within an epoch, where there is no terminal for a bar."""


class EpochLines(Callback):
    """Print a line per epoch, kept on the screen above the progress bar; in a log file also a line a minute."""

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self._started, self._first = time.perf_counter(), self._place(trainer)
        self._said = self._started

    def on_train_batch_end(self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, index: int) -> None:
        now = time.perf_counter()
        if sys.stdout.isatty() or not trainer.is_global_zero or now - self._said < EVERY:
            return
        self._said = now
        done = 100 * (index + 1) / trainer.num_training_batches
        values = "  ".join(f"{name} {value}" for name, value in task.bar().items())
        task.print(f"epoch {trainer.current_epoch + 1}, {done:.0f} %  {values}")

    @staticmethod
    def _place(trainer: pl.Trainer) -> float:
        """Return the number of epochs done, with a fraction."""
        progress = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        within = progress < trainer.num_training_batches  # else the run is resumed at the end of an epoch
        return trainer.current_epoch + (progress / trainer.num_training_batches if within else 0)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: Any) -> None:
        self._said = time.perf_counter()
        if not trainer.is_global_zero:
            return
        values, epochs = task.row, trainer.max_epochs or 0
        done = trainer.current_epoch + 1
        left = (time.perf_counter() - self._started) / max(1e-9, done - self._first) * (epochs - done)
        skipped = f"  {values['train/skipped_passes']:.0f} passes skipped" if "train/skipped_passes" in values else ""
        replaced = len(getattr(trainer.train_dataloader, "replaced", ()))
        unread = f"  {replaced} unreadable images passed over" if replaced else ""
        task.print(
            f"epoch {done:{len(str(epochs))}}/{epochs}  loss {values['train/loss']:.3f}  "
            f"validation: top-1 error {values['val/top1_error']:5.2f} %, top-5 {values['val/top5_error']:5.2f} %  "
            f"{task.clock.speed:,.0f} images/s"
            + (f"  {duration(left)} left" if done < epochs else "")
            + skipped
            + unread
        )
