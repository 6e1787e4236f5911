"""A `ModelSpec` describes a model. A name stands for one, files carry one, and from one the model is built again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from gmsop.backbones import BACKBONES
from gmsop.backbones.protocol import BackboneModule
from gmsop.errors import ConfigError
from gmsop.heads import HEADS
from gmsop.models.classifier import PooledClassifier
from gmsop.utils.options import Option, PositiveInt


@dataclass(frozen=True)
class ModelSpec:
    """This names a backbone and a head, with the values of all their options, and the numbers of classes and channels.

    It is frozen, and JSON can hold it: see `to_dict` and `from_dict`. All values are written out, so that a file keeps
    its meaning if a later version has another default.
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
        """Return the same description with other values of some options of backbone and head.

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
        """Return the options with other values in `other`, of the same backbone and head; the values are this one's."""
        ours, theirs = self.options, other.options
        return {name: value for name, value in ours.items() if value != theirs.get(name)}

    @property
    def options(self) -> dict[str, Any]:
        """Return the values of all options of backbone and head."""
        return {**self.backbone_options, **self.head_options}

    def build(self, trunk: BackboneModule | None = None) -> PooledClassifier:
        """Build the model, with random weights.

        Args:
            trunk: the backbone, where it is there already.

        Raises:
            UnknownNameError: no such backbone or head.
            ConfigError: values that cannot work together.
        """
        backbone, head = BACKBONES[self.backbone], HEADS[self.head]
        Option("in_chans", PositiveInt, 3).check(self.in_chans)
        options = dict(self.head_options)
        drop_rate = options.pop("drop_rate")
        if trunk is None:
            trunk = backbone.build(
                in_chans=self.in_chans, keep_resolution=head.keep_resolution, **dict(self.backbone_options)
            )
        channels = getattr(trunk, "layer_features", None)
        if bool(channels) != head.of_layers:
            raise ConfigError(
                f"{self.head} pools {'several layers' if head.of_layers else 'one map'}, the backbone differs"
            )
        pool = head.build(channels or trunk.num_features, **options)
        model = PooledClassifier(trunk, pool, self.num_classes, norm=head.batch_norm, drop_rate=drop_rate)
        model.spec = self
        return model

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON holds it: lists in place of tuples."""
        return {k: _plain(v) for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelSpec":
        """Return the description that `to_dict` wrote. An option that the file lacks takes its default.

        Raises:
            UnknownNameError: no such backbone or head.
            ConfigError: an option that neither has, or a value that cannot be.
            KeyError, TypeError: `values` is not such a description.
        """
        options = {**values["backbone_options"], **values["head_options"]}
        spec = default_spec(values["backbone"], values["head"], str(values["name"]), channels=0, **options)
        return replace(spec, num_classes=values["num_classes"], in_chans=values["in_chans"])


def default_spec(
    backbone: str, head: str, name: str | None = None, channels: int | None = None, **options: Any
) -> ModelSpec:
    """Return the description of a head on a backbone, with all options at their values for the two.

    Args:
        name: what the model is called; None: named by the head's label.
        channels: of the backbone's features, where they are known; a head's widths follow them.
        options: values that differ from those.

    Raises:
        UnknownNameError: no such backbone or head.
        ConfigError: an option that neither has, or a value that cannot be.
    """
    kind, pooling = BACKBONES[backbone], HEADS[head]
    body = {option.name: option.default for option in kind.options.values()}
    own = {option.name: option.default for option in pooling.options.values()}
    if both := set(body) & set(own):
        raise ConfigError(f"{head} and {backbone} both have an option {', '.join(sorted(both))}")
    if not kind.paper:
        if channels is None:
            channels = kind.channels({k: v for k, v in {**body, **options}.items() if k in body})
        own |= pooling.widths(channels)
    spec = ModelSpec(name or "", backbone, head, body, own | dict(kind.heads.get(head, {}))).with_options(**options)
    spec = replace(spec, head_options={**spec.head_options, **pooling.complete(spec.head_options)})
    return replace(spec, name=name or f"{pooling.label.format(**spec.head_options)}_{body_name(spec)}")


def head_options(head: str, channels: int, **options: Any) -> dict[str, Any]:
    """Return all options of a head, but for the dropout before the classifier, on features of so many channels.

    Raises:
        UnknownNameError: no such head.
        ConfigError: an option that it has not, or a value that cannot be.
    """
    pooling = HEADS[head]
    known = {name: option for name, option in pooling.options.items() if name != "drop_rate"}
    found = {name: option.default for name, option in known.items()} | dict(pooling.widths(channels))
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"{head} has no option {name!r}; it has {', '.join(known)}")
        known[name].check(value)
        found[name] = tuple(value) if isinstance(value, list) else value
    return found | dict(pooling.complete(found))


def body_name(spec: ModelSpec) -> str:
    """Return what the backbone is called: its name, or timm's name of it."""
    return str(spec.backbone_options.get("model") or spec.backbone)


def known_options() -> set[str]:
    """Return the names of all options that some head or backbone has."""
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
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value
