"""Forms in which answers for many images are written, a form a file."""
