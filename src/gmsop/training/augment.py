"""These functions augment whole batches, on the device the images are on."""

import torch
from torch import Tensor
from torchvision.transforms import v2

from gmsop.training.recipe import Recipe


def shift_crop(images: Tensor, padding: int) -> Tensor:
    """Pad each image of (b, S, S, 3) with black on all sides, and crop it to its size at a random place."""
    count, size = images.shape[:2]
    padded = torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
    tops, lefts = torch.randint(2 * padding + 1, (2, count, 1), device=images.device)
    along = torch.arange(size, device=images.device)
    each = torch.arange(count, device=images.device)[:, None, None]
    return padded[each, (tops + along)[:, :, None], (lefts + along)[:, None, :]]


def rand_augment(images: Tensor, magnitude: int) -> Tensor:
    """Apply RandAugment with two operations, image by image, to uint8 images (b, S, S, 3)."""
    operation = v2.RandAugment(2, magnitude)
    return torch.stack([operation(image) for image in images.permute(0, 3, 1, 2)]).permute(0, 2, 3, 1)


def augment_pixels(images: Tensor, recipe: Recipe) -> Tensor:
    """Do what a recipe asks for with the uint8 images (b, S, S, 3)."""
    if recipe.crop_padding:
        images = shift_crop(images, recipe.crop_padding)
    return rand_augment(images, recipe.randaugment) if recipe.randaugment else images


def random_flip(images: Tensor, flip: str) -> Tensor:
    """Flip images (b, c, h, w), drawn for each: "random" left to right, "all" upside down, too."""
    for axis in {"random": (3,), "all": (3, 2)}.get(flip, ()):
        chosen = torch.rand(len(images), device=images.device) < 0.5
        images = torch.where(chosen[:, None, None, None], images.flip(axis), images)
    return images


def mix(images: Tensor, labels: Tensor, recipe: Recipe, num_classes: int) -> tuple[Tensor, Tensor]:
    """Apply mixup or cutmix to images (b, c, h, w), if the recipe has any; labels (b,) become (b, num_classes)."""
    kinds = [(v2.MixUp, recipe.mixup), (v2.CutMix, recipe.cutmix)]
    ways = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha]
    if not ways:
        return images, labels
    return ways[int(torch.randint(len(ways), ()))](images, labels)
