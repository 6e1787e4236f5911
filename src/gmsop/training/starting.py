"""Give a fresh model the weights that a recipe starts from: timm's, or those of a file, a run or a hub."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from gmsop.backbones.timm_models import TimmBackbone
from gmsop.convert import load_matconvnet, load_mpncov
from gmsop.engine.messages import say
from gmsop.errors import CheckpointError
from gmsop.models import PooledClassifier
from gmsop.training.recipe import Recipe
from gmsop.utils.files import digest
from gmsop.utils.text import printable
from gmsop.weights.model_file import load_model
from gmsop.weights.pretrained import PACKAGES, load_backbone, pretrained_state

INPUT = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
"""What the weights expect of images, whatever the images are of."""


@dataclass(frozen=True)
class Start:
    """Says what a model started from."""

    source: str
    sha256: str | None = None
    """Of a file."""
    lines: list[str] = field(default_factory=list)
    """In words: what was taken, what is new, what was left over."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {"source": self.source, "sha256": self.sha256, "notes": self.lines}


def start_from_weights(model: PooledClassifier, recipe: Recipe, class_names: Sequence[str]) -> Start | None:
    """Put the recipe's starting weights into a fresh model; return None if it has none.

    The model then prepares images as the weights expect.

    Raises:
        ConfigError: the weights cannot be had, or there are none for such a model.
        CheckpointError: the file is missing, damaged, or of another backbone; the text names what differs.
    """
    if recipe.pretrained:
        return _pretrained(model, recipe)
    if recipe.init is None:
        return None
    source = recipe.init
    path = Path(source)
    if not source.startswith("hf-hub:") and not path.exists():
        raise CheckpointError(f"init: {printable(source)}: no such file or folder")
    lines, other = _taken(model, source, class_names)
    if other is not None:
        model.pretrained_cfg.update({key: other[key] for key in INPUT if key in other})
    return Start(source, digest(path) if path.is_file() else None, lines)


def _pretrained(model: PooledClassifier, recipe: Recipe) -> Start:
    trunk = model.backbone
    assert isinstance(trunk, TimmBackbone)
    package = PACKAGES.get(recipe.backbone.partition(".")[0])
    if package is None or find_spec(package.module) is None:
        say(f"fetching timm's weights of {recipe.backbone}; without a network it takes a minute to give up")
    load_backbone(trunk, pretrained_state(recipe.backbone, in_chans=model.in_chans), recipe.backbone)
    where = f"timm's {recipe.backbone}, or a package of them" if package else f"timm's {recipe.backbone}"
    count = len(trunk.model.state_dict())
    return Start(where, None, [f"{count} tensors of the backbone; the head and the classifier are new"])


def _taken(model: PooledClassifier, source: str, class_names: Sequence[str]) -> tuple[list[str], Any]:
    """Return in words what was taken of a source, and how its model's images are prepared, if it says."""
    other = _load(source)
    if other is None:
        state = pretrained_state("", source) or {}
        _require_timm(model, source)
        assert isinstance(model.backbone, TimmBackbone)
        load_backbone(model.backbone, state, source)
        own = model.backbone.model.state_dict()
        left = [name for name in state if name not in own]
        return [f"{len(own)} tensors of the backbone; the head and the classifier are new", *_left_over(left)], None
    return _from_model(model, other, source, class_names), dict(other.pretrained_cfg)


def _require_timm(model: PooledClassifier, source: str) -> None:
    if not isinstance(model.backbone, TimmBackbone):
        raise CheckpointError(
            f"init: {printable(source)} is no model of gmsop's or the authors', and the model has no backbone of timm's"
        )


def _load(source: str) -> PooledClassifier | None:
    """Load a model of gmsop's or the authors'; None if the file may hold timm's tensors of a backbone."""
    suffix = Path(source).suffix.lower()
    if suffix == ".mat":
        return load_matconvnet(source)
    if suffix in (".pth", ".tar", ".pt", ".bin"):
        try:
            return load_mpncov(source)
        except CheckpointError:
            return None
    try:
        return load_model(source)
    except CheckpointError as error:
        if suffix == ".safetensors" and "no description" in str(error):
            return None
        raise


def _from_model(model: PooledClassifier, other: PooledClassifier, source: str, class_names: Sequence[str]) -> list[str]:
    """Take the backbone, the head if it is the same, and the classifier if the classes are."""
    wanted, found = model.state_dict(), other.state_dict()
    what = printable(source)
    _require_backbone(wanted, found, what)
    parts: dict[str, list[str]] = {"backbone": [], "head": [], "classifier": []}
    for name in wanted:
        part = {"backbone": "backbone", "fc": "classifier"}.get(name.partition(".")[0], "head")
        parts[part].append(name)
    same_head = (
        model.spec is not None
        and other.spec is not None
        and model.spec.head == other.spec.head
        and _fits(parts["head"], wanted, found)
    )
    taken = parts["backbone"] + (parts["head"] if same_head else [])
    lines = [f"{len(parts['backbone'])} tensors of the backbone"]
    if parts["head"]:
        lines.append(f"{len(parts['head'])} of the head" if same_head else f"the head ({_kind(other)} there) is new")
    names = other.pretrained_cfg.get("label_names")
    same_classes = other.num_classes == model.num_classes and (not names or list(names) == list(class_names))
    if same_head and same_classes and _fits(parts["classifier"], wanted, found):
        taken += parts["classifier"]
        unsaid = "" if names else ", whose classes the file does not name: they are taken for the same"
        lines.append(f"the classifier{unsaid}")
    else:
        classes = f"{other.num_classes} classes there" if other.num_classes != model.num_classes else "other classes"
        why = classes if not same_classes else "of the other head"
        lines.append(f"the classifier is new ({why})")
    model.load_state_dict({**wanted, **{name: found[name].to(wanted[name].dtype) for name in taken}})
    left = [name for name in found if name not in wanted]
    return [", ".join(lines), *_left_over(left)]


def _kind(model: PooledClassifier) -> str:
    return model.spec.head if model.spec is not None else "another"


def _fits(names: Sequence[str], wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> bool:
    return all(name in found and found[name].shape == wanted[name].shape for name in names)


def _require_backbone(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str) -> None:
    names = [name for name in wanted if name.startswith("backbone.")]
    if missing := [name for name in names if name not in found]:
        raise CheckpointError(
            f"init: {source}: of another backbone: {len(missing)} of {len(names)} tensors missing "
            f"({', '.join(missing[:4])})"
        )
    if other := [name for name in names if found[name].shape != wanted[name].shape]:
        raise CheckpointError(
            f"init: {source}: of another backbone: {len(other)} tensors of another shape ({', '.join(other[:4])})"
        )


def _left_over(names: Sequence[str]) -> list[str]:
    more = ", ..." if len(names) > 4 else ""
    return [f"left over: {len(names)} tensors ({', '.join(map(printable, names[:4]))}{more})"] if names else []
