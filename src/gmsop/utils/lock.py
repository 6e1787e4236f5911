"""Keep two processes from writing the same thing at once."""

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no fcntl
    fcntl = None  # type: ignore[assignment]


class Lock:
    """Locks what is written for this process, by a file of its own. The system releases it when the process dies.

    Args:
        path: of the file, which is made, and removed by `release`.
        in_use: raised if another process holds the lock.
    """

    def __init__(self, path: Path, in_use: Exception) -> None:
        self._path, self._file = path, path.open("w")
        while fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.close()
                raise in_use from None
            # The former holder may have removed the file in between: then another process can lock a new one.
            if path.exists() and os.path.samestat(os.fstat(self._file.fileno()), path.stat()):
                return
            self._file.close()
            self._file = path.open("w")

    def release(self) -> None:
        """Let others have it."""
        self._path.unlink(missing_ok=True)
        self._file.close()
