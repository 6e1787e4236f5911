"""Training by a recipe: the optimisation, what is logged, checkpoints and going on from them, many devices."""
