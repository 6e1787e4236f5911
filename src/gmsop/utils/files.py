"""Writing files so that a crash or a full disk leaves either the old one or the new one, never half of one."""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gmsop.errors import GmsopError


class WriteError(GmsopError, OSError):
    """A file or folder that could not be written."""


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """A temporary path next to `path`, moved onto it when the block ends well and removed when it does not.

    Raises:
        WriteError: no space, no permission, no such folder. The file that stood at `path` is intact.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        new.touch(exist_ok=False)
        temporary = new  # ours to remove
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # as the user wants files to be, however this one was written
        to_disk(temporary)  # the new name must not reach the disk before what it names
        temporary.replace(path)
        to_disk(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Return when a file, or the names in a folder, are where a power cut leaves them."""
    if path.is_dir() and os.name == "nt":  # where folders cannot be opened
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_error(path: str | Path, error: OSError) -> WriteError:
    """The cause in words a user can act on."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    reason = "no space left on the disk" if full else error.strerror or str(error)
    return WriteError(f"cannot write {path}: {reason}. What was there before is unchanged")


def digest(path: str | Path, algorithm: str = "sha256") -> str:
    """Checksum of a file, in hexadecimal."""
    state = hashlib.new(algorithm)
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def require_space(folder: Path, needed: int) -> None:
    """Refuse at the start what would fail at the end.

    Raises:
        WriteError: less than `needed` bytes are free in `folder`.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WriteError(f"cannot write to {folder}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
