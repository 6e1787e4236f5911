"""Keep two processes from writing the same thing at once."""

import errno
import os
import stat
from pathlib import Path
from weakref import WeakSet

try:
    import fcntl
except ImportError:  # Windows has no fcntl
    fcntl = None  # type: ignore[assignment]


class Lock:
    """Locks what is written for this process, by a file of its own. The system releases it when the process dies.

    On a file system without locks, as some networks' are, and on Windows, nobody is kept out.

    Args:
        path: of the file, which is made, and removed by `release`.
        in_use: raised if another process holds the lock.
    """

    def __init__(self, path: Path, in_use: Exception) -> None:
        self._path = path
        self._handle: int | None = _open(path)
        _locks.add(self)
        while fcntl is not None:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._close()
                raise in_use from None
            except OSError as error:  # some network file systems know no locks
                if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    return
                self._close()
                raise
            # The former holder may have removed the file in between: then another process can lock a new one.
            if path.exists() and os.path.samestat(os.fstat(self._handle), path.stat()):
                return
            self._close()
            self._handle = _open(path)

    def release(self) -> None:
        """Let others have it."""
        if self._handle is not None:
            self._path.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


_locks: "WeakSet[Lock]" = WeakSet()


def _leave_to_parent() -> None:
    """Close the locks in a forked process: one that reads images lives a moment longer than its killed parent."""
    for lock in _locks:
        lock._close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _open(path: Path) -> int:
    """Open or make the file, and write nothing to it.

    A link is not followed: in a folder that others can write to, it may lead to anything.

    Raises:
        OSError: a link, no permission, or a file that is not a lock, which is empty.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o644)
    if os.fstat(handle).st_size or not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileExistsError(errno.EEXIST, "somebody's file has the name of gmsop's lock", str(path))
    return handle
