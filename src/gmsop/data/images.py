"""Decode and resize single images."""

import io
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

from gmsop.errors import ConfigError, DataError

FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
HEIF = frozenset([".heic", ".heif", ".hif"])
"""Extensions of photographs as telephones store them, for which Pillow needs a package beside it."""
HEIF_HINT = "HEIC photographs are read after `pip install pillow-heif`"
_HEIF_PACKAGE = find_spec("pillow_heif") is not None
EXTENSIONS = frozenset(
    [".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"]
    + ([".avif"] if "avif" in features.modules and features.check("avif") else [])
    + (sorted(HEIF) if _HEIF_PACKAGE else [])
)
"""Extensions of the files that are taken for images, in small letters: what this installation of Pillow can read."""
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")

if _HEIF_PACKAGE:
    import_module("pillow_heif").register_heif_opener()


def decode_rgb(
    data: bytes | Path, size: int, filter_name: str = "box", exif_orientation: bool = True
) -> NDArray[np.uint8]:
    """Decode one image to (size, size, 3) uint8 RGB. Its aspect ratio is ignored, as it was in both datasets.

    Args:
        data: the encoded bytes, or the file that holds them.
        size: S, in pixels.
        filter_name: one of `FILTERS`.
        exif_orientation: see `decode_image`.

    Raises:
        DataError: the image cannot be decoded.
        ConfigError: there is no such filter, or the size is below 1.
    """
    if filter_name not in FILTERS:
        raise ConfigError(f"unknown filter {filter_name!r}; there are {', '.join(FILTERS)}")
    if size < 1:
        raise ConfigError(f"the image size must be at least 1, got {size}")
    return squash(decode_image(data, exif_orientation), size, filter_name)


def squash(image: Image.Image, size: int, filter_name: str) -> NDArray[np.uint8]:
    """Resize an RGB image to (size, size, 3), its aspect ratio ignored."""
    return np.asarray(image if image.size == (size, size) else image.resize((size, size), FILTERS[filter_name]))


def decode_image(data: bytes | Path, exif_orientation: bool = True) -> Image.Image:
    """Decode one image to RGB, at the size it has.

    Grey and palette images become RGB, 16-bit images are scaled to 8 bits, transparency is dropped.

    Args:
        data: the encoded bytes, or the file that holds them.
        exif_orientation: turn the image as its EXIF data says, as viewers do. Cameras store photographs as the sensor
            lay. False leaves it off, as torchvision and MATLAB do.

    Raises:
        DataError: the image cannot be decoded.
    """
    content = data if isinstance(data, bytes) else file_content(data)
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            return upright_rgb(image, exif_orientation)
    except DataError:
        raise
    except UnidentifiedImageError:
        if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS:
            raise DataError(f"a HEIC photograph: {HEIF_HINT}") from None
        raise DataError("not an image, or of an unknown format") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot be decoded ({error})") from error


def upright_rgb(image: Image.Image, exif_orientation: bool = True) -> Image.Image:
    """Turn an image that Pillow has opened into RGB, and upright as its EXIF data says: see `decode_image`.

    Raises:
        DataError: its pixels are of a kind whose range is not known.
    """
    rgb = _to_rgb(image)
    turn = _turn_of(image) if exif_orientation else None  # only now: Pillow itself turns TIFF and AVIF
    return rgb if turn is None else rgb.transpose(turn)


@cache
def _formats() -> list[str]:
    """Return what Pillow may take a file for. It knows more, of which PostScript starts a program."""
    Image.init()
    plain = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP")
    return [name for name in plain if name in Image.OPEN]


def file_content(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        DataError: the path is a pipe, a socket or a device, from which reading may never end.
        OSError: the file cannot be read.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # reading a folder raises a clear error of its own
        raise DataError("not a file but a pipe, a socket or a device")
    return path.read_bytes()


def _turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return how the EXIF data says to turn the image; None where it says nothing, or is damaged."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data may raise almost anything
        return None


_ORIENTATION = 0x0112
"""The EXIF tag."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to undo each value of the tag."""


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DataError("floating-point pixels, of which the range is not known")
    if image.mode == "I" and image.format in (None, "TIFF"):  # from other files, old versions of Pillow make it of 16
        raise DataError("32 bits a pixel, of which the range is not known")
    if image.mode.startswith("I"):  # 16 bits per pixel, which Pillow's own conversion would clip at 255
        rows = np.asarray(image)
        high = np.empty(rows.shape, np.uint8)
        for row, found in zip(high, rows, strict=True):  # row by row, since a small file can hold a vast image
            row[:] = (found >> 8).clip(0, 255)
        return Image.fromarray(high).convert("RGB")
    return image.convert("RGB")
