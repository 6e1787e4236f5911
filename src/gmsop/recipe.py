"""A recipe: everything that decides how a model is trained. YAML files in `recipes/`, one per published row."""

import math
import re
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import yaml

from gmsop.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # Python 3.11


Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]
PRECISIONS = get_args(Precision)


@dataclass
class Recipe:
    """How a model is trained.

    What a recipe file leaves out is as published for GM-SOP on ResNet-18.

    Args:
        model: name of the model, see `gmsop models`.
        model_args: overrides for `gmsop.create_model`, for example {top_k: 4}.
        image_size: size S of the images the recipe is meant for, in pixels.
        epochs: epochs at each learning rate, [40, 10, 5, 5]; the sum is the length of the run. One number: one rate.
        schedule: "step": the rate is multiplied by lr_factor between the entries of epochs. "one_cycle": it rises to lr
            over the first 30 % of the steps and falls to almost 0, while the momentum goes from 0.95 to 0.85 and back
            (as torch's OneCycleLR). "cosine": it falls to 0 along half a cosine.
        warmup_epochs: epochs over which the rate rises linearly, before "step" or "cosine" takes over; 0 for none.
        lr: base learning rate of SGD.
        lr_factor: see schedule.
        batch_size: images per step of the optimiser, over all devices.
        accumulate: passes a step is made of, each of batch_size / accumulate images, where memory is short. BatchNorm
            and the balance loss see a pass, not the whole step.
        momentum: of SGD (one_cycle has its own).
        nesterov: use Nesterov's momentum.
        weight_decay: on every learnable parameter.
        balance_weight: weight of the balance loss against a cross-entropy SUMMED over the batch, as the paper states
            it. Against the mean cross-entropy that is minimised here it becomes balance_weight / batch size.
        label_smoothing: share of the target spread evenly over all classes.
        mixup: of Beta(mixup, mixup) the shares are drawn by which each image is blended with another of the batch
            (Zhang et al. 2018); 0 for none. With cutmix as well, each batch is one or the other.
        cutmix: the same for the area of a box pasted from another image (Yun et al. 2019); 0 for none.
        crop_padding: each image is shifted by up to this many pixels in both directions, black moving in.
        randaugment: magnitude, 1 to 30, of RandAugment with two operations (Cubuk et al. 2020); 0 for none. It works
            image by image, which takes time: about half a millisecond each on a CPU.
        flip: "random": each image is flipped left to right with probability 1/2. "both": each epoch shows every image
            twice, once flipped. "all": random flips left to right and upside down, for images without an up. "none".
        normalize: "mean": pixels 0..255 minus the RGB mean of the training set. "mean_std": divided by its standard
            deviation as well.
        stem_scale: the stem's initial filters are divided by this and their learning rate by its square: 60 for pixels
            that are not divided by a standard deviation, 1 for those that are.
        classifier_lr_scale: share of the learning rate that the linear classifier gets; 1 as published. With few
            classes a mixture's classifier wants less: see "Few classes" in the README.
        bn_momentum: share of the new batch in BatchNorm's running statistics.
        sync_batchnorm: BatchNorm's statistics are those of all devices' images; CUDA only.
        ema_decay: evaluate, and keep, an exponential moving average of the weights, with this decay per step; 0: none.
        precision: of Lightning's Trainer: 32-true, bf16-mixed, 16-mixed (GPUs only), 64-true. Covariance, square root
            and the gate's scores are in float32 or better whatever it says.
        channels_last: keep the weights in PyTorch's channels_last memory format; feature maps are, as images come so.
        compile: torch.compile the model.
        non_finite: what to do about a loss that is not finite: "stop" the run, or "skip" the step; ten in a row stop
            it all the same.
        checkpoint_every: steps between checkpoints within an epoch; 0: only after each epoch.
        num_workers: processes that read images; 0 reads in the training process.
        loader: "memmap": images are read as needed. "resident": the whole uint8 set lies in the device's memory.
            "auto": resident where the set takes at most a quarter of the free memory of a CUDA device. Same batches.
        seed: of the initial weights, the order of images, flips, dropout and the gate's noise.
    """

    model: str = "gm_sop_16_8_resnet18"
    model_args: dict[str, Any] = field(default_factory=dict)
    image_size: int = 64
    epochs: list[int] | int = field(default_factory=lambda: [40, 10, 5, 5])
    schedule: Literal["step", "cosine", "one_cycle"] = "step"
    warmup_epochs: float = 0.0
    lr: float = 0.1
    lr_factor: float = 0.1
    batch_size: int = 256
    accumulate: int = 1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    balance_weight: float = 100.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    crop_padding: int = 0
    randaugment: int = 0
    flip: Literal["random", "both", "all", "none"] = "random"
    normalize: Literal["mean", "mean_std"] = "mean"
    stem_scale: float = 60.0
    classifier_lr_scale: float = 1.0
    bn_momentum: float = 0.3
    sync_batchnorm: bool = False
    ema_decay: float = 0.0
    precision: Precision = "32-true"
    channels_last: bool = False
    compile: bool = False
    non_finite: Literal["stop", "skip"] = "stop"
    checkpoint_every: int = 1000
    num_workers: int = 0
    loader: Literal["auto", "memmap", "resident"] = "auto"
    seed: int = 0

    @property
    def epochs_per_rate(self) -> list[int]:
        return [self.epochs] if isinstance(self.epochs, int) else list(self.epochs)

    @property
    def total_epochs(self) -> int:
        return sum(self.epochs_per_rate)

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: naming the key.
        """
        self._check_kinds()
        self._check_ranges()
        self._check_together()

    def _check_kinds(self) -> None:
        for f in fields(self):
            value, allowed = getattr(self, f.name), _ALLOWED[f.name]
            if isinstance(allowed, tuple):
                good, expected = value in allowed, f"one of {', '.join(allowed)}"
            else:
                good, expected = _is(value, allowed), allowed.__name__
            if not good:
                raise ConfigError(f"recipe: {f.name} must be {expected}, got {value!r}")
        epochs = [self.epochs] if _is(self.epochs, int) else self.epochs
        if not isinstance(epochs, list) or not all(_is(count, int) for count in epochs):
            raise ConfigError(f"recipe: epochs must be a count or a list of counts, got {self.epochs!r}")

    def _check_ranges(self) -> None:
        for name in ("image_size", "lr", "lr_factor", "batch_size", "accumulate", "stem_scale", "classifier_lr_scale"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"recipe: {name} must be positive, got {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ConfigError(f"recipe: {name} must not be negative, got {getattr(self, name)}")
        for name in ("label_smoothing", "ema_decay"):
            if getattr(self, name) >= 1:
                raise ConfigError(f"recipe: {name} must be below 1, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"recipe: seed must be from 0 to {2**32 - 1}, got {self.seed}")
        if min(self.epochs_per_rate, default=-1) < 0 or self.total_epochs < 1:
            raise ConfigError(f"recipe: epochs must be counts with at least one epoch in all, got {self.epochs}")
        if not 0 < self.bn_momentum <= 1:
            raise ConfigError(f"recipe: bn_momentum must be above 0 and at most 1, got {self.bn_momentum}")
        if self.randaugment > 30:
            raise ConfigError(f"recipe: randaugment must be from 0 to 30, got {self.randaugment}")

    def _check_together(self) -> None:
        if self.nesterov and not self.momentum:
            raise ConfigError("recipe: nesterov needs a momentum above 0")
        if self.warmup_epochs and (self.schedule == "one_cycle" or self.warmup_epochs >= self.total_epochs):
            why = "one_cycle has its own warm-up" if self.schedule == "one_cycle" else f"epochs are {self.total_epochs}"
            raise ConfigError(f"recipe: warmup_epochs is {self.warmup_epochs}, but {why}")
        if self.crop_padding >= self.image_size:
            raise ConfigError(f"recipe: crop_padding must be below image_size, got {self.crop_padding}")
        if self.batch_size % self.accumulate:
            raise ConfigError(f"recipe: accumulate {self.accumulate} does not divide batch_size {self.batch_size}")
        if self.batch_size == self.accumulate:
            raise ConfigError("recipe: a pass must have two images or more: BatchNorm has no statistics of one")

    def scaled(self, factor: float) -> "Recipe":
        """The same recipe with its schedule shrunk (or stretched) in proportion, to at least one epoch in all.

        Raises:
            ConfigError: a factor that is not positive.
        """
        if not (math.isfinite(factor) and factor > 0):
            raise ConfigError(f"the scale must be positive, got {factor}")
        ends = [max(1, round(factor * end)) for end in accumulate(self.epochs_per_rate)]
        epochs = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        warmup = min(factor * self.warmup_epochs, sum(epochs) / 2)
        return replace(self, epochs=epochs, warmup_epochs=warmup)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


# What each value must be: a type, or one of several words.
_ALLOWED: dict[str, Any] = {
    name: get_args(hint) if get_origin(hint) is Literal else (get_origin(hint) or hint)
    for name, hint in get_type_hints(Recipe).items()
}
_ALLOWED["epochs"] = object  # two types; `_check_kinds` looks for itself

_NOT_NEGATIVE = (
    "warmup_epochs", "momentum", "weight_decay", "balance_weight", "label_smoothing", "mixup", "cutmix",
    "crop_padding", "randaugment", "ema_decay", "checkpoint_every", "num_workers",
)  # fmt: skip


def _is(value: Any, kind: type) -> bool:
    """`isinstance` in YAML's sense: an integer is a float too, a bool is no number, no float is infinite or NaN."""
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)


def recipe_names() -> list[str]:
    """Names of the recipes that come with gmsop: `imagenet64/gm_sop_16_8_resnet18`, ..."""
    return sorted(
        f"{folder.name}/{file.name.removesuffix('.yaml')}"
        for folder in _folder().iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    )


def recipe_text(name: str) -> str:
    """The YAML of a recipe by its name, or of a file by its path.

    Raises:
        UnknownNameError: neither; the text lists the nearest names.
    """
    if name in recipe_names():
        return _folder().joinpath(*f"{name}.yaml".split("/")).read_text(encoding="utf-8")
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UnknownNameError(f"no recipe file {name}")
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}: not a readable text file ({error})") from error
    raise UnknownNameError.of("recipe", name, recipe_names())


def load_recipe(name: str) -> Recipe:
    """A recipe by its name or path.

    Raises:
        UnknownNameError: no such recipe, or a key that recipes do not have.
        ConfigError: not a YAML mapping, or a value that cannot work.
    """
    try:
        values = yaml.safe_load(recipe_text(name))
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{name}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: a recipe is a mapping of keys to values")
    known = [f.name for f in fields(Recipe)]
    for key in values:
        if key not in known:
            raise UnknownNameError.of("recipe key", str(key), known)
    recipe = Recipe(**{key: _number(value) if _ALLOWED[key] is float else value for key, value in values.items()})
    recipe.check()
    return recipe


def _number(value: Any) -> Any:
    """For YAML 1e-4 and 1.5e4 are text, 1.0e-4 and 1.5e+4 numbers."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) else value


def _folder() -> "Traversable":
    return files("gmsop") / "recipes"
