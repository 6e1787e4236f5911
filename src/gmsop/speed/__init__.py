"""Measure how fast the head is on this machine, against other ways to the same numbers: `gmsop benchmark`."""
