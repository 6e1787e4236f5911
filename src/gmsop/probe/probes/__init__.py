"""What a probe compares: a file for each kind, which registers itself."""
