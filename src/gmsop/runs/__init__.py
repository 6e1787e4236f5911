"""The folder that a training run leaves: its files, figures, environment and curves."""
