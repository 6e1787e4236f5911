"""This package reads the authors' MatConvNet checkpoints."""
