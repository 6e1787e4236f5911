"""Decoding and resizing single images."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from gmsop.errors import ConfigError, DataError

FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
EXTENSIONS = frozenset([".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])


def decode_rgb(data: bytes | Path, size: int, filter_name: str = "box") -> NDArray[np.uint8]:
    """One image as (size, size, 3) uint8 RGB, resized without regard to its aspect ratio (as both datasets were).

    Grey and palette images become RGB, 16-bit ones are scaled to 8, transparency is dropped. An orientation noted in
    EXIF is not applied, as in torchvision.

    Args:
        data: the encoded bytes, or the file that holds them.
        size: S, in pixels.
        filter_name: one of `FILTERS`.

    Raises:
        DataError: the image cannot be decoded.
        ConfigError: no such filter, or a size below 1.
    """
    if filter_name not in FILTERS:
        raise ConfigError(f"unknown filter {filter_name!r}; there are {', '.join(FILTERS)}")
    if size < 1:
        raise ConfigError(f"the image size must be at least 1, got {size}")
    try:
        with Image.open(io.BytesIO(data if isinstance(data, bytes) else file_content(data))) as image:
            rgb = _to_rgb(image)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError("not an image, or of an unknown format") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot be decoded ({error})") from error
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), FILTERS[filter_name])
    return np.asarray(rgb)


def file_content(path: Path) -> bytes:
    """Of a file.

    Raises:
        DataError: a pipe or a device, which may never end.
        OSError: it cannot be read.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # a folder's own error says what it is
        raise DataError("not a file but a pipe, a socket or a device")
    return path.read_bytes()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DataError("floating-point pixels, of which the range is not known")
    if image.mode == "I" and image.format == "TIFF":  # in other formats it is how older versions of Pillow hold 16 bits
        raise DataError("32 bits a pixel, of which the range is not known")
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion clips at 255
        high = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(high.clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
