"""Run the command line as `python -m gmsop.cli`, where the script `gmsop` is not on the path."""

import sys

from gmsop.cli import main

sys.exit(main())
