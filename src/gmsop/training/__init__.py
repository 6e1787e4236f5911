"""Training by a recipe: the optimisation, what is logged, checkpoints and going on from them, many devices."""

from gmsop.training.console import is_first_process
from gmsop.training.resume import RunComplete
from gmsop.training.run import WEIGHTS, Run, started_again, train
from gmsop.training.signals import Interrupted
from gmsop.training.task import TrainingTask

__all__ = ["WEIGHTS", "Interrupted", "Run", "RunComplete", "TrainingTask", "is_first_process", "started_again", "train"]
