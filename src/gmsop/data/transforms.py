"""Turn a photograph of any size into the square that a network sees: as for evaluation, or augmented for training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmsop.errors import ConfigError

Transform = Callable[[Image.Image], NDArray[np.uint8]]
"""From an RGB image to (S, S, 3) uint8."""
CropMode = Literal["squash", "center", "border"]
TrainCrop = Literal["rrc", "rkrc", "rkrr", "none"]
LONGEST_SHAPE = 16
"""Times that an image may be longer than wide before its ends are cut off."""


@dataclass(frozen=True)
class Augmentation:
    """Says how training images are changed at random, by timm's transforms and in timm's words.

    Args:
        train_crop: "rrc": a random part of the image, `scale` of its area, `ratio` wide to high, becomes the square.
            "rkrc" and "rkrr": the whole image is resized, at random scale and ratio, and its middle, or a random part,
            is cut out. "none": as in evaluation.
        scale: smallest and largest share of the area; None: timm's (0.08 to 1; 0.8 to 1 for rkrc and rkrr).
        ratio: smallest and largest width to height; None: timm's (3/4 to 4/3).
        flip: "random": left to right with probability 1/2; "all": upside down, too; otherwise none here.
        color_jitter: brightness, contrast and saturation vary by up to this share. Not with `auto_augment`.
        auto_augment: "rand-m9-mstd0.5-inc1", "original", "augmix-m3-w3" and so on (RandAugment, AutoAugment, AugMix).
        interpolation: bilinear, bicubic, ..., or "random" of both.
    """

    train_crop: TrainCrop = "rrc"
    scale: Sequence[float] | None = None
    ratio: Sequence[float] | None = None
    flip: str = "random"
    color_jitter: float = 0.0
    auto_augment: str | None = None
    interpolation: str = "random"

    def transform(self, size: int, mean: Sequence[float], evaluation: Transform) -> Transform:
        """Return the random transform to squares of `size` pixels.

        It draws from the generators of Python, NumPy and PyTorch.

        Args:
            mean: colour of what a rotation leaves, in timm's units.
            evaluation: what "none" does to every image.

        Raises:
            ConfigError: timm does not know one of the values.
        """
        flips = {"hflip": 0.5 * (self.flip in ("random", "all")), "vflip": 0.5 * (self.flip == "all")}
        try:
            made = _timm_transform()(
                size,
                is_training=True,
                train_crop_mode=None if self.train_crop == "none" else self.train_crop,
                scale=None if self.scale is None else tuple(self.scale),
                ratio=None if self.ratio is None else tuple(self.ratio),
                color_jitter=self.color_jitter or None,
                auto_augment=self.auto_augment or None,
                interpolation=self.interpolation,
                mean=tuple(mean),
                use_prefetcher=True,
                **flips,
            )
        except (AssertionError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            given = f"auto_augment {self.auto_augment}, interpolation {self.interpolation}"
            raise ConfigError(
                f"timm cannot make this augmentation ({given}): {type(error).__name__}: {error}"
            ) from error
        if self.train_crop == "none":
            return _Chain(_without(made, 1), evaluation)
        return _Chain(_without(made))


def _timm_transform() -> Any:
    """Return timm's function, only now: timm takes seconds to import."""
    import timm.data

    found: Any = timm.data  # timm.data does not say what it exports
    return found.create_transform


class _Chain:
    """Applies timm's steps to an image, and NumPy in place of their last, which copies it to another layout.

    A class, not a function, so that processes which are not forked can be given it.
    """

    def __init__(self, steps: Sequence[Any], evaluation: Transform | None = None) -> None:
        self.steps, self.evaluation = list(steps), evaluation

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        image = without_ends(image) if self.evaluation is None else Image.fromarray(self.evaluation(image))
        for step in self.steps:
            image = step(image)
        return np.asarray(image)


def _without(made: Any, first: int = 0) -> list[Any]:
    """Return the steps of timm's transform but the first ones and the last."""
    *steps, last = made.transforms
    assert type(last).__name__ == "MaybePILToTensor", f"another last step than timm had: {last}"
    return steps[first:]


@lru_cache(16)
def evaluation_transform(
    size: int, interpolation: str, crop_mode: str, crop_pct: float, mean: tuple[float, ...]
) -> Transform:
    """Return timm's transform for evaluation; see `gmsop.data.preprocess.Preprocess` for its arguments."""
    made = _timm_transform()(
        size, interpolation=interpolation, crop_mode=crop_mode, crop_pct=crop_pct, mean=mean, use_prefetcher=True
    )
    return _Chain(_without(made))


def without_ends(image: Image.Image) -> Image.Image:
    """Cut the ends off an image that is more than `LONGEST_SHAPE` times as long as it is wide; keep any other.

    Its shorter side would be resized, and the longer one with it: one pixel by 20,000 would become gigabytes, of which
    the middle is kept.
    """
    short, long = sorted(image.size)
    if long <= LONGEST_SHAPE * short:
        return image
    width, height = (min(side, LONGEST_SHAPE * short) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
