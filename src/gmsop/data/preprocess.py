"""Turn images into a model's input, in one place for training, evaluation, prediction, report and benchmarks."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gmsop.data.images import FILTERS, decode_image, squash
from gmsop.data.transforms import CropMode, evaluation_transform
from gmsop.errors import DataError
from gmsop.utils.text import printable


@dataclass(frozen=True)
class Preprocess:
    """Reads image files as uint8 pixels, and turns pixels into a model's input.

    `mean` and `std` are in timm's units, in which white is 1.
    """

    image_size: int
    """S: images become S x S pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    filter_name: str = "box"
    exif_orientation: bool = True
    """Whether files are turned as their EXIF data says."""
    crop_mode: CropMode = "squash"
    """How, in timm's words. "squash": the aspect ratio is ignored. "center": the middle is cut out. "border": the whole
    image is kept, with borders of the mean colour."""
    crop_pct: float = 1.0
    """Share of the resized image's side that S is; the rest is cut off."""

    @classmethod
    def of(cls, cfg: Mapping[str, Any]) -> "Preprocess":
        """Return what a model's `pretrained_cfg` says. A filter that gmsop does not have becomes box."""
        filter_name = cfg.get("interpolation")
        return cls(
            int(cfg["input_size"][1]),
            tuple(cfg["mean"]),
            tuple(cfg["std"]),
            str(filter_name) if filter_name in FILTERS else "box",
            crop_mode=cfg.get("crop_mode", "squash"),
            crop_pct=cfg.get("crop_pct", 1.0),
        )

    @classmethod
    def of_set(cls, meta: Mapping[str, Any], divide: bool = True) -> "Preprocess":
        """Prepare images by the statistics of a packed set, given its `meta`.

        Args:
            divide: by the standard deviation, too; else only the mean is subtracted.
        """
        std = meta["rgb_std"] if divide else (1.0, 1.0, 1.0)
        return cls(meta["image_size"], tuple(v / 255 for v in meta["rgb_mean"]), tuple(v / 255 for v in std))

    def read(self, path: str | Path) -> NDArray[np.uint8]:
        """Read one image file as (S, S, 3) uint8.

        Raises:
            DataError: the file cannot be read as an image; the text names it.
        """
        try:
            return self.fit(decode_image(Path(path), self.exif_orientation))
        except DataError as error:
            raise DataError(f"{printable(str(path))}: {error}") from error

    def fit(self, image: Image.Image) -> NDArray[np.uint8]:
        """Turn an RGB image of any size into (S, S, 3) uint8."""
        if self.crop_mode == "squash" and self.crop_pct == 1:
            return squash(image, self.image_size, self.filter_name)
        transform = evaluation_transform(
            self.image_size, self.filter_name, self.crop_mode, self.crop_pct, self.mean or (0.5, 0.5, 0.5)
        )
        return transform(image)

    def input(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Turn pixels (b, H, W, C) uint8, on any device, into a model's input (b, C, H, W)."""
        mean, std = (_in_pixels(values, dtype, images.device) for values in (self.mean, self.std))
        return images.to(dtype).sub_(mean).div_(std).permute(0, 3, 1, 2)


@lru_cache(16)
def _in_pixels(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Scale values in timm's units to pixel values. The result is cached, because copying it to a GPU costs a wait."""
    with torch.inference_mode(False):
        return torch.tensor([255 * v for v in values], dtype=dtype, device=device)
