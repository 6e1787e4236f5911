"""Write one HTML page about a run, or comparing several: everything is in one file, readable without a network."""
