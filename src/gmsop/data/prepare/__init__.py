"""Make packed sets. Each kind of source has a file of its own here."""
