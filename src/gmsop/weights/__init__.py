"""Model files: saving a model with its description, and building it again from a file."""

from gmsop.weights.model_file import load_model, save_model

__all__ = ["load_model", "save_model"]
