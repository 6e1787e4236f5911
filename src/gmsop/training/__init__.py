"""Training by a recipe: the optimisation, what is logged, checkpoints and going on from them, many devices."""

from gmsop.training.run import Run, is_first_process, train
from gmsop.training.signals import Interrupted
from gmsop.training.task import TrainingTask

__all__ = ["Interrupted", "Run", "TrainingTask", "is_first_process", "train"]
