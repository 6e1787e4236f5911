"""A run may keep a running average of the weights."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EMAWeightAveraging


class Averaging(EMAWeightAveraging):
    """Keep Lightning's average of the weights, but in the training's precision and on its device.

    Lightning makes the average before it brings the model to the device, and would copy every weight to the host in
    every step.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            trainer.precision_plugin.convert_module(pl_module)
            pl_module.to(trainer.strategy.root_device)
        super().setup(trainer, pl_module, stage)
