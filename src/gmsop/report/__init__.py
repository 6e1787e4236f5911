"""One HTML page about a run, or comparing several: everything in the one file, readable without a network."""

from gmsop.report.page import write_report

__all__ = ["write_report"]
