"""How fast the head is, on the hardware at hand, against other ways to the same numbers: `gmsop benchmark`."""

from gmsop.benchmark.tables import TABLES
from gmsop.benchmark.timing import Measurement, WrongResultError

__all__ = ["TABLES", "Measurement", "WrongResultError"]
