"""Other people's checkpoints as gmsop models."""

from gmsop.convert.matconvnet.load import load_matconvnet

__all__ = ["load_matconvnet"]
