"""Find images to look at one after the other: files, folders, patterns, lists, tar shards; a million as well as one.

Nothing is kept of an image that was passed on, so memory does not grow with their number.
"""

import glob
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmsop.data.image_files import folder_images, is_image_name
from gmsop.data.images import decode_image, upright_rgb
from gmsop.errors import ConfigError, DataError

AnyImage = str | Path | Image.Image | NDArray[np.uint8]
"""What an image may be given as: a path, one of Pillow, or pixels (H, W, 3) or (H, W), uint8."""


@dataclass(frozen=True)
class FoundImage:
    """Holds an image's name, and how to decode it to RGB; decoding raises `DataError` or `OSError`."""

    name: str
    decode: Callable[[bool], Image.Image]
    """Takes whether the image is turned as its EXIF data says."""


def image_of(given: AnyImage, index: int = 0) -> FoundImage:
    """Return one image that is given as a path, an image of Pillow, or pixels.

    Args:
        index: names what has no name of its own.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(given, str | Path):
        return _of_file(str(given))
    name = f"image {index}"
    if isinstance(given, Image.Image):
        name = str(getattr(given, "filename", "") or name)
        return FoundImage(name, lambda turned: upright_rgb(given, turned))
    if isinstance(given, np.ndarray):
        if given.dtype != np.uint8 or given.ndim not in (2, 3) or (given.ndim == 3 and given.shape[2] != 3):
            raise ConfigError(f"{name}: pixels must be uint8 (H, W, 3) or (H, W), got {given.dtype} {given.shape}")
        if not given.size:
            raise ConfigError(f"{name}: no pixels, {given.shape}")
        return FoundImage(name, lambda turned: Image.fromarray(given).convert("RGB"))
    raise ConfigError(f"{name}: a path, an image of Pillow or uint8 pixels (H, W, 3), got {type(given).__name__}")


def iter_images(words: Iterable[str], standard_input: IO[str] | None = None) -> Iterator[FoundImage]:
    """Yield the images that words name, in their order.

    A word is a file; a folder, of which all images are taken, those in folders within it, too, in order of their names;
    a pattern such as `photos/**/*.jpg`; a tar file (.tar, .tar.gz, .tgz, ...), whose images are named
    `FILE.tar/MEMBER`; or "-", for which a path is read from each line of standard input.

    A folder, pattern or tar file without images, or one that cannot be read, counts as one image that cannot be
    decoded, so that it does not stop the others.
    """
    for word in words:
        if word == "-":
            for line in () if standard_input is None else standard_input:
                if path := line.rstrip("\r\n"):
                    yield _of_file(path)
        elif os.path.isdir(word):  # noqa: PTH112 - a million paths are strings, not objects
            yield from _of_folder(word)
        elif _is_tar(word):
            yield from _of_tar(word)
        elif glob.has_magic(word) and not os.path.exists(word):  # noqa: PTH110
            yield from _of_pattern(word)
        else:
            yield _of_file(word)


def _of_file(path: str) -> FoundImage:
    def decode(turned: bool) -> Image.Image:
        if not os.path.exists(path):  # noqa: PTH110
            raise DataError("no such file")
        if os.path.isdir(path):  # noqa: PTH112
            raise DataError("a folder, not an image")
        return decode_image(Path(path), turned)

    return FoundImage(path, decode)


def _of_folder(folder: str) -> Iterator[FoundImage]:
    found = False
    try:
        for path in folder_images(Path(folder)):
            found = True
            yield _of_file(path)
    except DataError as error:
        yield _failing(folder, str(error))
        return
    if not found:
        yield _failing(folder, "a folder without images")


def _of_pattern(pattern: str) -> Iterator[FoundImage]:
    found = False
    for path in sorted(glob.iglob(pattern, recursive=True)):  # noqa: PTH207 - Path.glob takes no absolute patterns
        if os.path.isdir(path):  # noqa: PTH112
            continue
        found = True
        yield _of_file(path)
    if not found:
        yield _failing(pattern, "no file matches")


def _is_tar(path: str) -> bool:
    return path.lower().endswith((".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz"))


def _of_tar(path: str) -> Iterator[FoundImage]:
    """Yield the images of a tar file, which is read once from its beginning to its end."""
    found = False
    try:
        with tarfile.open(path, "r|*", tarinfo=_Member) as shard:
            for member in shard:
                if not member.isfile() or not is_image_name(member.name):
                    continue
                content: Any = shard.extractfile(member)
                data: bytes = content.read()
                found = True
                yield FoundImage(f"{path}/{member.name}", _decoding(data))
    except (OSError, tarfile.TarError, EOFError) as error:
        yield _failing(path, f"no tar file, or damaged ({error})")
        return
    if not found:
        yield _failing(path, "a tar file without images")


class _Member(tarfile.TarInfo):
    """Refuses a tar file that ends without its end mark, which Python takes for a whole one: the rest may be lost."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> Any:
        try:
            return super().fromtarfile(tarfile)
        except _NOTHING_LEFT as error:
            raise OSError("it ends without the mark of its end: the rest may be lost") from error


_NOTHING_LEFT: Any = getattr(tarfile, "EmptyHeaderError", ())  # which Python does not document


def _failing(name: str, reason: str) -> FoundImage:
    def decode(turned: bool) -> Image.Image:
        raise DataError(reason)

    return FoundImage(name, decode)


def _decoding(data: bytes) -> Callable[[bool], Image.Image]:
    return lambda turned: decode_image(data, turned)
