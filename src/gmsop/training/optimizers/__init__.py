"""Each file here registers an optimiser that gmsop knows well. timm's others work by their names there."""

from gmsop.training.optimizers.registry import OPTIMIZERS, Optimizer, register_optimizer

__all__ = ["OPTIMIZERS", "Optimizer", "register_optimizer"]
