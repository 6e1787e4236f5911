"""What makes packed sets, a source a file."""
