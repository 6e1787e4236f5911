"""This package turns other people's checkpoints into gmsop models."""

from gmsop.convert.matconvnet.load import load_matconvnet
from gmsop.convert.mpncov.load import load_mpncov

__all__ = ["load_matconvnet", "load_mpncov"]
