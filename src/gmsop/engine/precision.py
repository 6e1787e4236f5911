"""Define the precisions that Lightning's Trainer may be asked for."""

from typing import Literal, get_args

Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]
"""The precision of computations, as Lightning's Trainer names it."""
PRECISIONS: tuple[str, ...] = get_args(Precision)
