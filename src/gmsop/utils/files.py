"""Write files so that a crash or a full disk leaves either the old file or the new one, never half of one."""

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
    """A file or folder could not be written."""


TEMPORARY = ".gmsop-"
"""How the names of unfinished files begin; they end in `.part`."""


def clear_unfinished(folder: Path) -> None:
    """Remove the unfinished files in a folder that only one process writes to, after one that was killed."""
    for path in folder.glob(f"{TEMPORARY}*.part"):
        path.unlink(missing_ok=True)


def beside(path: Path, suffix: str) -> Path:
    """Return the hidden name beside `path` for something that belongs to it, shortened where it would be too long."""
    name = f".{path.name}{suffix}"
    if len(os.fsencode(name)) > 255:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}{suffix}"
    return path.with_name(name)


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; move it onto `path` if the block ends well, remove it if not.

    Raises:
        WriteError: there is no space, no permission or no such folder. The file that was at `path` is intact.
    """
    path = Path(path)
    temporary: Path | None = None
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe or a device"
        raise WriteError(f"cannot write {path}: {kind} has that name. What was there before is unchanged")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}.part")  # short, so that any legal name can be written
        new.touch(exist_ok=False)
        temporary = new  # from here on, the file is ours to remove
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # a writer may have changed the permissions that the user's files have
        to_disk(temporary)  # the content must reach the disk before the new name does
        temporary.replace(path)
        to_disk(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Return only when a file, or the list of names in a folder, would survive a power cut."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_error(path: str | Path, error: OSError) -> WriteError:
    """Turn an `OSError` into a `WriteError` with words that a user can act on."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    reason = "no space left on the disk" if full else error.strerror or str(error)
    return WriteError(f"cannot write {path}: {reason}. What was there before is unchanged")


def digest(path: str | Path, algorithm: str = "sha256") -> str:
    """Return the checksum of a file, in hexadecimal."""
    state = hashlib.new(algorithm)
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def require_space(folder: Path, needed: int) -> None:
    """Refuse at the start what would fail at the end.

    Raises:
        WriteError: fewer than `needed` bytes are free in `folder`.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WriteError(f"cannot write to {folder}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
