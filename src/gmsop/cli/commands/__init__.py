"""Define the commands, one per file, each with SUMMARY, EXAMPLE, `arguments` and `run`."""
