"""What every room may use: files, progress, options, registers of names."""
