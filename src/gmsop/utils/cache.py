"""The folder for what gmsop can make again."""

import os
from pathlib import Path

from gmsop.errors import ConfigError


def cache_folder() -> Path:
    """Return `$GMSOP_CACHE`, or `gmsop` in the user's cache folder.

    Raises:
        ConfigError: the user has neither.
    """
    if own := os.environ.get("GMSOP_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "gmsop"
    try:
        return Path.home() / ".cache" / "gmsop"
    except RuntimeError:
        raise ConfigError("this user has no home folder: set GMSOP_CACHE to a folder that can be written") from None
