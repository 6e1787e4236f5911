"""Forms of exported files, a form a file."""
