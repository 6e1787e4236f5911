"""How fast the head is, on the hardware at hand, against other ways to the same numbers: `gmsop benchmark`."""
