"""The commands, a command a file, each with SUMMARY, EXAMPLE, `arguments` and `run`."""
