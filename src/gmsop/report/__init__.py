"""One HTML page about a run, or comparing several: everything in the one file, readable without a network."""
