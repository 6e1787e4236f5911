"""This package turns other people's checkpoints into gmsop models."""

from gmsop.convert.matconvnet.load import load_matconvnet

__all__ = ["load_matconvnet"]
