"""A model is saved to a file with its description, and built again from that file."""

from gmsop.weights.model_file import load_model, save_model

__all__ = ["load_model", "save_model"]
