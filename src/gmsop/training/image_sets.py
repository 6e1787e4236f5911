"""Make of a run's images what it trains on and what it validates on, as its recipe and its model see them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmsop.data.data_options import DataOptions
from gmsop.data.labelled_images import LabelledImages
from gmsop.data.packed import PackedDataset
from gmsop.data.photographs import Photographs
from gmsop.data.preprocess import Preprocess
from gmsop.data.streamed import Streamed
from gmsop.data.timm_sources import Stream, is_timm_source
from gmsop.data.training_images import TrainingImages, find_training_images
from gmsop.data.transforms import Augmentation
from gmsop.errors import ConfigError, DataError
from gmsop.training.recipe import Recipe
from gmsop.utils.processors import available_processors
from gmsop.utils.text import printable

ImageSet = PackedDataset | Photographs | Streamed
MOST_WORKERS = 8
"""Processes that read photographs for each process that trains, unless the recipe says more."""


@dataclass(frozen=True)
class Found:
    """Holds the images of a run before there is a model that sees them."""

    class_names: list[str]
    fingerprint: str
    meta: dict[str, Any] | None
    """Description of a packed set."""
    packed: tuple[PackedDataset, PackedDataset] | None
    """To train and to validate on, where the recipe is for squares."""
    photographs: TrainingImages | None
    """The same, where the recipe is for photographs."""
    options: DataOptions

    @property
    def held_out(self) -> list[str]:
        """Return the names of the images that were held out of the training images to validate on."""
        images = self.photographs
        if images is None or not images.held_out or isinstance(images.val, Stream):
            return []
        return images.val.names


def find_sets(recipe: Recipe, data: str, options: DataOptions, progress: bool) -> Found:
    """Find the images of a run.

    Raises:
        DataError: there are none; they are not of the kind, or of the size, that the recipe is for.
        ConfigError: options that cannot work together.
    """
    is_packed = not is_timm_source(data) and (Path(data) / "meta.json").is_file()
    if recipe.images == "squares":
        return _squares(recipe, data, options, is_packed)
    if is_packed and (size := PackedDataset(data, "train", verify=False).image_size) < recipe.image_size:
        raise DataError(
            f"{data} is a packed set of {size} pixels, the recipe is for photographs of {recipe.image_size} or more: "
            f"name the photographs' own folder, pass --image_size {size}, or take a recipe for packed sets"
        )
    found = find_training_images(data, options, progress)
    return Found(found.class_names, found.fingerprint, None, None, found, options)


def _squares(recipe: Recipe, data: str, options: DataOptions, is_packed: bool) -> Found:
    if not is_packed and (is_timm_source(data) or _holds_images(Path(data))):
        size = recipe.image_size
        raise DataError(
            f"{printable(data)} is no packed set, and the recipe trains on packed sets of {size} pixels: make one with "
            f"`gmsop prepare folder --source {printable(data)} --out SET --size {size}`, or train on the photographs "
            "themselves, --recipe finetune/default"
        )
    if given := sorted(options.given()):
        raise ConfigError(f"{', '.join(given)}: not for a packed set, which has its own splits and classes")
    train, val = PackedDataset(data, "train"), PackedDataset(data, "val")
    if train.image_size != recipe.image_size:
        raise DataError(
            f"{train.path} holds images of {train.image_size} pixels, the recipe is for {recipe.image_size}; "
            f"pass --image_size {train.image_size} to train on them all the same"
        )
    return Found(train.class_names, train.fingerprint, train.meta, (train, val), None, options)


def _holds_images(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".tsv") or (
        path.is_dir() and any(child.is_dir() for child in path.iterdir())
    )


def make_sets(found: Found, recipe: Recipe, cfg: dict[str, Any]) -> tuple[ImageSet, ImageSet]:
    """Return what is trained on and what is validated on, as a model of this `pretrained_cfg` sees them.

    Raises:
        ConfigError: an augmentation that timm does not know, or that a stream cannot have.
        DataError: fewer than two images to train on.
    """
    if found.packed is not None:
        train: ImageSet = found.packed[0]
        sets: tuple[ImageSet, ImageSet] = found.packed
    else:
        assert found.photographs is not None
        how = Preprocess.of(cfg)
        flip = "none" if recipe.flip == "both" else recipe.flip
        augmentation = Augmentation(
            recipe.train_crop, recipe.crop_scale, recipe.crop_ratio, flip, recipe.color_jitter, recipe.auto_augment,
            recipe.train_interpolation,
        )  # fmt: skip
        transform = augmentation.transform(recipe.image_size, how.mean, how.fit)
        train = _set(found.photographs.train, "train", transform, recipe, found.options, recipe.seed)
        sets = train, _set(found.photographs.val, "val", how.fit, recipe, found.options, None)
        if isinstance(train, Streamed) and recipe.flip == "both":
            raise ConfigError("recipe: flip: both shows each image twice, which a stream cannot; use random")
    if len(train) < 2:
        raise DataError(f"{train.path}: {len(train)} images to train on; BatchNorm needs at least two")
    return sets


def _set(
    images: LabelledImages | Stream, split: str, transform: Any, recipe: Recipe, options: DataOptions, seed: int | None
) -> Photographs | Streamed:
    if isinstance(images, Stream):
        return Streamed(images, split, transform, recipe.image_size, seed)
    return Photographs(images, split, transform, recipe.image_size, seed, options.on_error)


def workers_of(recipe: Recipe, ranks_here: int) -> int:
    """Return how many processes read images for each process that trains."""
    if recipe.num_workers != "auto":
        return recipe.num_workers
    if recipe.images == "squares":
        return 0  # reading pages of a memory map costs less than passing them between processes
    processors = available_processors()
    return max(1, min(MOST_WORKERS, processors // max(1, ranks_here)))
