"""The one description of a model: what a name stands for, what files carry, and what builds the model again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from gmsop.backbones import BACKBONES
from gmsop.errors import ConfigError
from gmsop.heads import HEADS
from gmsop.models.classifier import PooledClassifier
from gmsop.utils.options import Option, PositiveInt


@dataclass(frozen=True)
class ModelSpec:
    """A backbone and a head by name, each with the values of all its options, and the numbers of classes and channels.

    Frozen, and JSON can hold it: `to_dict` and `from_dict`. All values are written out, so that a file keeps its
    meaning where a later version has another default.
    """

    name: str
    """What the model is called; its options may differ from those that the name stands for."""
    backbone: str
    head: str
    backbone_options: Mapping[str, Any]
    head_options: Mapping[str, Any]
    num_classes: int = 1000
    in_chans: int = 3

    def with_options(self, **options: Any) -> "ModelSpec":
        """The same with other values of some options of backbone and head.

        Raises:
            ConfigError: an option that neither has, or a value that cannot be.
        """
        own = _options(self.backbone, self.head)
        body, head = dict(self.backbone_options), dict(self.head_options)
        for name, value in options.items():
            if name not in own:
                _refuse(name, self)
            own[name].check(value)
            (body if name in body else head)[name] = tuple(value) if isinstance(value, list) else value
        return replace(self, backbone_options=body, head_options=head)

    def differences(self, other: "ModelSpec") -> dict[str, Any]:
        """The options of this one that have other values in `other`, of the same backbone and head."""
        ours, theirs = self.options, other.options
        return {name: value for name, value in ours.items() if value != theirs.get(name)}

    @property
    def options(self) -> dict[str, Any]:
        """The values of all options, of backbone and head."""
        return {**self.backbone_options, **self.head_options}

    def build(self) -> PooledClassifier:
        """The model, with random weights.

        Raises:
            UnknownNameError: no such backbone or head.
            ConfigError: values that cannot work together.
        """
        backbone, head = BACKBONES[self.backbone], HEADS[self.head]
        Option("in_chans", PositiveInt, 3).check(self.in_chans)
        options = dict(self.head_options)
        drop_rate = options.pop("drop_rate")
        trunk = backbone.build(
            in_chans=self.in_chans, keep_resolution=head.keep_resolution, **dict(self.backbone_options)
        )
        pool = head.build(trunk.num_features, **options)
        model = PooledClassifier(trunk, pool, self.num_classes, norm=head.batch_norm, drop_rate=drop_rate)
        model.spec = self
        return model

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: lists in place of tuples."""
        return {k: _plain(v) for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelSpec":
        """The inverse of `to_dict`. An option that the file lacks has the value of the version that wrote it.

        Raises:
            UnknownNameError: no such backbone or head.
            ConfigError: an option that neither has, or a value that cannot be.
            KeyError, TypeError: no such description.
        """
        known = default_spec(values["backbone"], values["head"], str(values["name"]))
        known = replace(known, num_classes=values["num_classes"], in_chans=values["in_chans"])
        return known.with_options(**values["backbone_options"], **values["head_options"])


def default_spec(backbone: str, head: str, name: str | None = None, **options: Any) -> ModelSpec:
    """A head on a backbone, with all options at their values for the two.

    Args:
        name: what the model is called; None: by the head's label.
        options: values that differ.

    Raises:
        UnknownNameError: no such backbone or head.
        ConfigError: an option that neither has, or a value that cannot be.
    """
    body = {option.name: option.default for option in BACKBONES[backbone].options.values()}
    own = {option.name: option.default for option in HEADS[head].options.values()} | dict(
        BACKBONES[backbone].heads.get(head, {})
    )
    if both := set(body) & set(own):
        raise ConfigError(f"{head} and {backbone} both have an option {', '.join(sorted(both))}")
    spec = ModelSpec(name or "", backbone, head, body, own).with_options(**options)
    label = HEADS[head].label.format(**spec.head_options)
    return replace(spec, name=name or f"{label}_{backbone}")


def known_options() -> set[str]:
    """Names of all options that some head or backbone has."""
    return {name for room in (HEADS, BACKBONES) for entry in room for name in entry.options}


def _options(backbone: str, head: str) -> dict[str, Option]:
    return BACKBONES[backbone].options | HEADS[head].options


def _refuse(option: str, spec: ModelSpec) -> None:
    every = known_options()
    if option not in every:
        raise ConfigError(f"no model has an option {option!r}; there are {', '.join(sorted(every))}")
    own = ", ".join(_options(spec.backbone, spec.head))
    raise ConfigError(f"a {spec.head} model on {spec.backbone} has no option {option!r}; it has {own}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value
