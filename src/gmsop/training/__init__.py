"""This package trains by a recipe: optimisation, logs, checkpoints and going on from them, many devices."""
