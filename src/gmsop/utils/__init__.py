"""Provide what every package of gmsop may use: files, progress bars, options, registries of names."""
