"""Lightning's Trainer as gmsop uses it: quiet, reproducible on a CPU, with a progress bar when asked."""

import logging
import sys
import warnings
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


def make_trainer(progress: bool, callbacks: list[Any] | None = None, **options: Any) -> Trainer:
    """A Trainer on whatever accelerator there is. On a CPU every operation is deterministic."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # Reading uint8 pages of a memory map costs less than passing them between processes.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*(exists and is not empty|treespec, LeafSpec).*")
    callbacks = list(callbacks or [])
    bar = progress and sys.stdout.isatty()  # in a log file every refresh would be a line
    if bar:
        callbacks.append(_ProgressBar(leave=False))
    options.setdefault("logger", False)
    return Trainer(
        callbacks=callbacks,
        enable_progress_bar=bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        deterministic=not torch.cuda.is_available(),
        use_distributed_sampler=False,
        enable_checkpointing=any("Checkpoint" in type(c).__name__ for c in callbacks),
        **options,
    )


class _ProgressBar(TQDMProgressBar):
    """Counts epochs from 1, as the lines above it do."""

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}")
