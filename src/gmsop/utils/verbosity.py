"""How much is said beside a command's answer: see `set`. Libraries' users say it by `warnings` and loggers instead."""

quiet = False
"""No progress, no notes; answers, warnings and errors are printed all the same."""
verbose = False
"""Tracebacks of errors, and libraries' own warnings, too."""


def set(quiet: bool, verbose: bool) -> None:
    """Set both for this process."""
    globals().update(quiet=quiet, verbose=verbose)
