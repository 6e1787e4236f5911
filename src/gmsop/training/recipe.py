"""A recipe is everything that decides how a model is trained; `recipes/` has a YAML file per published row."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from gmsop.data.transforms import CropMode, TrainCrop
from gmsop.engine.precision import Precision
from gmsop.errors import ConfigError, UnknownNameError
from gmsop.utils.options import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    Range,
    Share,
    in_words,
    is_valid,
    options_of,
)
from gmsop.utils.text import open_text
from gmsop.utils.yaml_files import LONGEST, load_yaml

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # Python 3.11


DEFAULT_MODEL = "gm_sop_16_8_resnet18"
Head = str | dict[str, Any] | list[str | dict[str, Any]]
"""A head's name, with its own options {head: NAME, ...}, or one for each layer."""
Epochs = Annotated[int, Range(least=0, most=10**5)]
"""Numbers of epochs, batches, pixels and processes are bounded: beyond any use, a slip would take all memory."""

SECTIONS = {
    "model": "the model, and the weights it starts from",
    "images": "the images; photographs' crops and augmentation",
    "freeze": "what learns",
    "epochs": "the schedule and the steps",
    "optimizer": "the optimiser",
    "label_smoothing": "targets, and augmentation of whole batches",
    "normalize": "the input's scale, and rates of single parts",
    "grad_checkpointing": "memory, precision, statistics and the machine",
}
"""The sections of a recipe: the key that each begins with, and what it is about."""


@dataclass
class Recipe:
    """A recipe says how a model is trained.

    What a recipe file leaves out is done as published for GM-SOP on ResNet-18.

    Args:
        model: name of the model, see `gmsop models`; "" where there is a backbone.
        backbone: timm's name of a network that `head` sits on, in place of a model.
        head: name of the head on the backbone, see `gmsop models`; with layers in model_args, a list of them.
        pretrained: start from timm's weights of the backbone, or those of an installed package.
        init: start from these weights: a file or folder that gmsop saved, a run, "hf-hub:NAME", the authors' files
            (.mat, .pth.tar), or timm's tensors of the backbone. What the file lacks, or has for other classes, is new.
        model_args: overrides for `gmsop.create_model`, or options for `gmsop.attach`, for example {top_k: 4}.
        images: "squares": small images of one size, in a packed set, which are augmented as whole batches
            (crop_padding, randaugment). "photographs": images of any size, from any source, each cropped and augmented
            by timm's transforms (train_crop to auto_augment) in processes that read.
        image_size: size S of the images that the network sees, in pixels.
        interpolation: of photographs in evaluation: bilinear, bicubic, ...; default: the network's own.
        crop_mode: of photographs in evaluation, as timm says it: center, squash or border; default: the network's own.
        crop_pct: share of a photograph's side that is seen in evaluation; default: the network's own.
        train_crop: what of a photograph is seen in training, as timm says it. "rrc": a random part, resized. "rkrc",
            "rkrr": the middle, or a random part, after a random scale and ratio. "none": as in evaluation.
        crop_scale: smallest and largest share of a photograph's area in training, [0.08, 1]; default: timm's.
        crop_ratio: smallest and largest ratio of width to height, [0.75, 1.33]; default: timm's.
        color_jitter: brightness, contrast and saturation of photographs vary by up to this share; 0 with auto_augment.
        auto_augment: of photographs, in timm's words: rand-m9-mstd0.5-inc1, original, augmix-m3-w3; default: none.
        train_interpolation: of photographs in training: random (bilinear or bicubic), bilinear, bicubic.
        random_erasing: probability that a box of an image becomes its mean colour (Zhong et al. 2020).
        freeze: what does not learn: none; backbone; stages:N, the stem and the first N stages; or names of the
            backbone's modules, [conv1, layer1]. BatchNorm in it keeps its statistics.
        unfreeze_epoch: epochs after which what is frozen learns, too; 0: it stays frozen.
        frozen_batchnorm: BatchNorm in the backbone keeps its statistics; its weights learn.
        epochs: epochs at each learning rate, [40, 10, 5, 5]; the sum is the length of the run. One number: one rate.
        schedule: "step": the rate is multiplied by lr_factor between the entries of epochs. "one_cycle": it rises to lr
            over the first 30 % of the steps and falls to almost 0, while the momentum goes from 0.95 to 0.85 and back
            (as torch's OneCycleLR). "cosine": it falls to 0 along half a cosine.
        warmup_epochs: epochs over which the rate rises linearly, before "step" or "cosine" takes over; 0 for none.
        lr: base learning rate.
        lr_factor: see schedule.
        batch_size: images per step of the optimiser, over all devices.
        accumulate: passes that make up a step, each of batch_size / accumulate images, for where memory is short.
            BatchNorm and the balance loss see one pass, not the whole step.
        optimizer: sgd, as published, or adamw; any other of timm's by its name there, if stem_scale is 1.
        optimizer_args: further arguments of the optimiser, for example {eps: 1.0e-6}.
        momentum: SGD's momentum, or the first of AdamW's betas (one_cycle has its own).
        nesterov: use Nesterov's momentum (SGD).
        weight_decay: weight decay of every learnable parameter; see decay_norms_and_biases.
        balance_weight: weight of the balance loss against a cross-entropy SUMMED over the batch, as the paper states
            it. Against the mean cross-entropy that is minimised here it becomes balance_weight / batch size.
        label_smoothing: share of the target spread evenly over all classes.
        mixup: each image is blended with another of the batch, by shares drawn from Beta(mixup, mixup) (Zhang et al.
            2018); 0 for none. With cutmix as well, each batch gets one or the other.
        cutmix: a box of another image is pasted into each, its area drawn from Beta(cutmix, cutmix) (Yun et al. 2019);
            0 for none.
        crop_padding: each image is shifted by up to this many pixels in both directions; what it leaves is black.
        randaugment: magnitude, 1 to 30, of RandAugment with two operations (Cubuk et al. 2020); 0 for none. It works
            image by image, which takes time: about half a millisecond each on a CPU.
        flip: "random": each image is flipped left to right with probability 1/2. "both": each epoch shows every image
            twice, once flipped. "all": random flips left to right and upside down, for images without an up. "none".
        normalize: "mean": pixels 0..255 minus the RGB mean of the training set. "mean_std": divided by its standard
            deviation as well. "model": as the network says, for photographs. With starting weights always as these
            expect it.
        stem_scale: the stem's initial filters are divided by this: 60 for pixels that are not divided by a standard
            deviation, 1 for those that are. So that the network learns as without it, the stem's learning rate is
            divided as well (SGD: by its square; AdamW: by it, and the weight decay is multiplied by it).
        classifier_lr_scale: share of the learning rate that the linear classifier gets; 1 as published. "auto": what
            its inputs allow (SGD, AdamW), computed before training: with few classes a mixture's wants less.
        head_lr_scale: learning rate of all that is not the backbone, in shares of lr; 5 as fast MPN-COV fine-tunes.
        layer_decay: the learning rate of a layer is this share of that of the layer after it; 1: all the same.
        decay_norms_and_biases: weight decay holds for norms and biases, too, as published.
        clip_grad_norm: largest norm of a step's gradient; 0: it is not clipped.
        grad_checkpointing: compute the backbone's activations again in the backward pass instead of keeping them: less
            memory, more time.
        bn_momentum: share of the new batch in BatchNorm's running statistics.
        sync_batchnorm: BatchNorm's statistics are those of all devices' images; CUDA only.
        ema_decay: evaluate, and keep, an exponential moving average of the weights, with this decay per step; 0: none.
        precision: as Lightning's Trainer names it: 32-true, bf16-mixed, 16-mixed (GPUs only), 64-true. Covariance,
            square root and the gate's scores are in float32 or better whatever it says.
        channels_last: keep the weights in PyTorch's channels_last memory format. Feature maps have it in any case, as
            images come so.
        compile: compile the model with torch.compile.
        non_finite: what to do about a loss that is not finite: "stop" the run, or "skip" the step. Ten such passes in a
            row stop the run in any case.
        checkpoint_every: steps between checkpoints within an epoch; 0: only after each epoch.
        num_workers: processes that read images; 0 reads in the training process. "auto": 0 for squares, for photographs
            as many as this process has processors, at most 8.
        loader: "memmap": images are read as needed. "resident": the whole uint8 set lies in the device's memory.
            "auto": resident where the set takes at most a quarter of the free memory of a CUDA device. Same batches.
        seed: decides the initial weights, the order of images, flips, dropout and the gate's noise.
    """

    model: str = DEFAULT_MODEL
    backbone: str = ""
    head: Head = ""
    pretrained: bool = False
    init: str | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    images: Literal["squares", "photographs"] = "squares"
    image_size: Annotated[int, Range(least=1, most=2**14)] = 64
    interpolation: str | None = None
    crop_mode: CropMode | None = None
    crop_pct: Annotated[float, Range(above=0, most=1)] | None = None
    train_crop: TrainCrop = "rrc"
    crop_scale: list[float] | None = None
    crop_ratio: list[float] | None = None
    color_jitter: NonNegativeFloat = 0.0
    auto_augment: str | None = None
    train_interpolation: str = "random"
    random_erasing: Share = 0.0
    freeze: str | list[str] = "none"
    unfreeze_epoch: NonNegativeInt = 0
    frozen_batchnorm: bool = False
    epochs: list[Epochs] | Epochs = field(default_factory=lambda: [40, 10, 5, 5])
    schedule: Literal["step", "cosine", "one_cycle"] = "step"
    warmup_epochs: NonNegativeFloat = 0.0
    lr: PositiveFloat = 0.1
    lr_factor: PositiveFloat = 0.1
    batch_size: Annotated[int, Range(least=1, most=2**20)] = 256
    accumulate: Annotated[int, Range(least=1, most=2**20)] = 1
    optimizer: str = "sgd"
    optimizer_args: dict[str, Any] = field(default_factory=dict)
    momentum: NonNegativeFloat = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 1e-4
    balance_weight: NonNegativeFloat = 100.0
    label_smoothing: Share = 0.0
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0
    crop_padding: NonNegativeInt = 0
    randaugment: Annotated[int, Range(least=0, most=30)] = 0
    flip: Literal["random", "both", "all", "none"] = "random"
    normalize: Literal["mean", "mean_std", "model"] = "mean"
    stem_scale: PositiveFloat = 60.0
    classifier_lr_scale: PositiveFloat | Literal["auto"] = 1.0
    head_lr_scale: PositiveFloat = 1.0
    layer_decay: Annotated[float, Range(above=0, most=1)] = 1.0
    decay_norms_and_biases: bool = True
    clip_grad_norm: NonNegativeFloat = 0.0
    grad_checkpointing: bool = False
    bn_momentum: Annotated[float, Range(above=0, most=1)] = 0.3
    sync_batchnorm: bool = False
    ema_decay: Share = 0.0
    precision: Precision = "32-true"
    channels_last: bool = False
    compile: bool = False
    non_finite: Literal["stop", "skip"] = "stop"
    checkpoint_every: NonNegativeInt = 1000
    num_workers: Annotated[int, Range(least=0, most=1024)] | Literal["auto"] = "auto"
    loader: Literal["auto", "memmap", "resident"] = "auto"
    seed: Annotated[int, Range(least=0, below=2**32)] = 0

    @property
    def label(self) -> str:
        """Return what the model is called for short: its name, or that of its head and its backbone."""
        heads = [self.head] if isinstance(self.head, str | dict) else self.head
        names = [head if isinstance(head, str) else str(head.get("head")) for head in heads]
        return f"{'+'.join(names)} on {self.backbone}" if self.backbone else self.model

    @property
    def has_weights(self) -> bool:
        """Return whether training starts from weights that are there."""
        return self.pretrained or self.init is not None

    @property
    def epochs_per_rate(self) -> list[int]:
        """Return the epochs at each learning rate, as a list."""
        return [self.epochs] if isinstance(self.epochs, int) else list(self.epochs)

    @property
    def total_epochs(self) -> int:
        """Return the length of a run in epochs."""
        return sum(self.epochs_per_rate)

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: naming the key.
        """
        for option in _OPTIONS.values():
            value = getattr(self, option.name)
            if not is_valid(value, option.type):
                raise ConfigError(f"recipe: {option.name} must be {in_words(option.type)}, got {value!r}")
        if self.total_epochs < 1:
            raise ConfigError(f"recipe: epochs must be counts with at least one epoch in all, got {self.epochs}")
        self._check_together()

    def _check_together(self) -> None:
        self._check_model()
        self._check_images()
        if self.unfreeze_epoch and (self.freeze == "none" or self.unfreeze_epoch >= self.total_epochs):
            why = "nothing is frozen" if self.freeze == "none" else f"epochs are {self.total_epochs}"
            raise ConfigError(f"recipe: unfreeze_epoch is {self.unfreeze_epoch}, but {why}")
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

    def _check_model(self) -> None:
        if bool(self.model) == bool(self.backbone):
            found = f"model {self.model} and backbone {self.backbone}" if self.model else "neither"
            raise ConfigError(f"recipe: there must be a model, or a backbone with a head; got {found}")
        if bool(self.head) != bool(self.backbone):
            what = "a backbone wants a head, such as --head sr_sop" if self.backbone else "a head wants a backbone"
            raise ConfigError(f"recipe: {what}")
        if self.pretrained and self.init is not None:
            raise ConfigError("recipe: pretrained and init both say what to start from; give one of them")
        if self.pretrained and not self.backbone:
            raise ConfigError(f"recipe: pretrained is for a backbone; no weights are hosted for {self.model}: see init")
        if self.backbone and self.stem_scale != 1:
            found = f"recipe: stem_scale is {self.stem_scale:g}"
            raise ConfigError(f"{found}; a backbone of timm's wants 1: see the recipe finetune/default")

    def _check_images(self) -> None:
        whole, single = ("crop_padding", "randaugment"), (
            "interpolation", "crop_mode", "crop_pct", "train_crop", "crop_scale", "crop_ratio", "color_jitter",
            "auto_augment", "train_interpolation",
        )  # fmt: skip
        foreign = single if self.images == "squares" else whole
        if given := [name for name in foreign if getattr(self, name) != _OPTIONS[name].default]:
            other = "photographs" if self.images == "squares" else "squares"
            raise ConfigError(f"recipe: {', '.join(given)}: for images: {other}, this recipe has images: {self.images}")
        if self.images == "photographs" and self.normalize != "model":
            raise ConfigError("recipe: photographs are normalised as the network says: normalize: model")
        if self.normalize == "model" and self.stem_scale != 1:
            raise ConfigError(f"recipe: stem_scale is {self.stem_scale:g}; with normalize: model it must be 1")
        for name in ("crop_scale", "crop_ratio"):
            pair = getattr(self, name)
            if pair is not None and not (len(pair) == 2 and 0 < pair[0] <= pair[1]):
                raise ConfigError(f"recipe: {name} must be two numbers, the smaller first, got {pair}")
        if self.auto_augment and self.color_jitter:
            raise ConfigError("recipe: color_jitter has no effect beside auto_augment; set it to 0")

    def scaled(self, factor: float) -> "Recipe":
        """Return the same recipe with its schedule shrunk (or stretched) in proportion, to at least one epoch in all.

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
        """Return all values by name, as YAML and JSON hold them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Return the recipe that `to_dict` wrote; its values are not checked.

        An older version of gmsop did not write the keys that came later. Such a key takes the value that describes what
        that version did: `absent` in the `metadata` of its field, or else its default.

        Raises:
            UnknownNameError: a key that recipes do not have.
        """
        known = {f.name: f for f in fields(cls)}
        for key in values:
            if key not in known:
                raise UnknownNameError.of("recipe key", str(key), known)
        if values.get("backbone"):
            values = {"model": ""} | dict(values)
        absent = {name: f.metadata["absent"] for name, f in known.items() if "absent" in f.metadata}
        return cls(**(absent | dict(values)))


_OPTIONS = options_of(Recipe)


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with gmsop: `imagenet64/gm_sop_16_8_resnet18`, ..."""
    return sorted(
        f"{folder.name}/{file.name.removesuffix('.yaml')}"
        for folder in _folder().iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    )


def recipe_text(name: str) -> str:
    """Return the YAML of a recipe by its name, or of a file by its path.

    Raises:
        UnknownNameError: neither; the text lists the nearest names.
        ConfigError: not a readable text file.
    """
    if name in recipe_names():
        return _folder().joinpath(*f"{name}.yaml".split("/")).read_text(encoding="utf-8")
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UnknownNameError(f"no recipe file {name}")
        try:
            with open_text(path) as file:
                return file.read(LONGEST + 1)
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"{name}: not a readable text file ({error})") from error
    raise UnknownNameError.of("recipe", name, recipe_names())


def load_recipe(name: str) -> Recipe:
    """Load a recipe by its name or path.

    Raises:
        UnknownNameError: no such recipe, or a key that recipes do not have.
        ConfigError: not a YAML mapping, or a value that cannot work.
    """
    values = load_yaml(recipe_text(name), name)
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: a recipe is a mapping of keys to values")
    recipe = Recipe.from_dict(values)
    recipe.check()
    return recipe


def _folder() -> "Traversable":
    return files("gmsop.training") / "recipes"
