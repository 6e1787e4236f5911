"""Read and write the folder of a training run: its files, figures, environment and curves."""
