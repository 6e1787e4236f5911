"""Decode and resize single images."""

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
    """Decode one image to (size, size, 3) uint8 RGB. Its aspect ratio is ignored, as it was in both datasets.

    Grey and palette images become RGB, 16-bit images are scaled to 8 bits, transparency is dropped. The EXIF
    orientation is ignored, as in torchvision.

    Args:
        data: the encoded bytes, or the file that holds them.
        size: S, in pixels.
        filter_name: one of `FILTERS`.

    Raises:
        DataError: the image cannot be decoded.
        ConfigError: there is no such filter, or the size is below 1.
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
    """Return the bytes of a file.

    Raises:
        DataError: the path is a pipe, a socket or a device, from which reading may never end.
        OSError: the file cannot be read.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # reading a folder raises a clear error of its own
        raise DataError("not a file but a pipe, a socket or a device")
    return path.read_bytes()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DataError("floating-point pixels, of which the range is not known")
    if image.mode == "I" and image.format == "TIFF":  # in other formats, old versions of Pillow hold 16 bits so
        raise DataError("32 bits a pixel, of which the range is not known")
    if image.mode.startswith("I"):  # 16 bits per pixel, which Pillow's own conversion would clip at 255
        high = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(high.clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
