"""Training by a recipe: the optimisation, what is logged, checkpoints and going on from them, many devices."""

from gmsop.training.console import is_first_process
from gmsop.training.run import Run, train
from gmsop.training.signals import Interrupted
from gmsop.training.task import TrainingTask

__all__ = ["Interrupted", "Run", "TrainingTask", "is_first_process", "train"]
