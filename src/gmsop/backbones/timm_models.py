"""A `TimmBackbone` makes any timm model a backbone by timm's own interface, without a table of architectures."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

from torch import Tensor, nn

from gmsop.backbones.dry_run import shapes_of, unused_by
from gmsop.backbones.protocol import BackboneModule
from gmsop.backbones.registry import register_backbone
from gmsop.errors import ConfigError, GmsopError, UnknownNameError

ClassToken = Literal["drop", "concat"]

FEATURES = "features"
"""The name of a model's last features among its layers."""


class TimmBackbone(BackboneModule):
    """This is a timm model without classifier and pooling, convolutional or transformer.

    Features come from the model's `forward` (so that its own norm after the last stage is kept), or, where layers that
    follow the pooling are in it, from `forward_features`, or from the last level of `forward_intermediates`: the first
    of them that gives one map, or one list of tokens, of more than one position.

    Args:
        model: timm's name of the model, with a tag of its weights if wanted; `hf-hub:` and `local-dir:` names, too.
        in_chans: channels of the images.
        keep_resolution: not used: a pretrained network keeps the resolution that it was trained with, unless
            `output_stride` says otherwise.
        output_stride: pixels per position of the last map, where the model offers it; None: the model's own, mostly 32.
            16 gives a second-order head four times the positions of the same pretrained weights, by dilation in place
            of strides; the last stage then takes four times the time.
        dilated: False: with `output_stride`, leave out the dilation that keeps the pretrained weights' receptive field;
            as iSQRT-COV trains.
        left_out: names of modules of the model that are left out, as `nn.Identity` in their place. ["features.43",
            "pre_logits"] ends a vgg16_bn before its last max-pooling, with four times the positions.
        class_token: of a transformer: "drop" it, or "concat" it, after the model's own norm, to the pooled vector.
        layers: several levels in place of the last features, for a head that pools each: names or indices of the
            model's `feature_info`, or "features", its last features after its own norm; a level may be named twice, for
            two heads. `forward` then gives a tuple of maps (B, C, H, W), one for each; layers of the network that none
            of them needs are left out.
        model_args: further arguments of `timm.create_model`, for example {"img_size": 256, "drop_path_rate": 0.1}.
        pretrained: load timm's weights.

    Raises:
        UnknownNameError: timm has no such model, the model no such layer; the text lists the nearest.
        ConfigError: the model does not take an argument, has no map or tokens to pool, or its weights cannot be had.
    """

    def __init__(
        self,
        model: str = "",
        in_chans: int = 3,
        keep_resolution: bool = False,
        output_stride: Literal[8, 16, 32] | None = None,
        dilated: bool = True,
        left_out: Sequence[str] | None = None,
        class_token: ClassToken = "drop",
        layers: Sequence[str | int] | None = None,
        model_args: Mapping[str, Any] | None = None,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        arguments = dict(model_args or {}) | ({"in_chans": in_chans} if in_chans != 3 else {})
        if output_stride is not None:
            arguments["output_stride"] = output_stride
        elif not dilated:
            raise ConfigError("dilated: without output_stride there is no dilation to leave out")
        network = create_timm_model(model, pretrained, **arguments)
        if not dilated:
            _undilate(network)
        _leave_out(network, left_out or ())
        self._take(network, class_token, layers)
        if left_out and self.feature_info and self.output_fmt != "NLC":
            self.feature_info[-1]["reduction"] = self.input_size[0] // self.map_size(*self.input_size)[0]

    @classmethod
    def around(
        cls, model: nn.Module, class_token: ClassToken = "drop", layers: Sequence[str | int] | None = None
    ) -> "TimmBackbone":
        """Take over a timm model that is there; its classifier and pooling are removed from it.

        Raises:
            UnknownNameError: it has no such layer.
            ConfigError: it has no map or tokens to pool.
        """
        backbone = cls.__new__(cls)
        BackboneModule.__init__(backbone)
        _remove_head(model)
        backbone._take(model, class_token, layers)
        return backbone

    def _take(self, model: nn.Module, class_token: ClassToken, layers: Sequence[str | int] | None) -> None:
        self.model = model
        self.num_features = int(cast(Any, model).num_features)
        cfg = cast(dict[str, Any], model.pretrained_cfg)
        self.in_chans = int(getattr(model, "in_chans", None) or _first_channels(model, cfg))
        self.class_token = class_token
        self.feature_info = [
            {**level, "module": f"model.{level['module']}"} if level.get("module") else level
            for level in _plain_feature_info(model)
        ]
        self.input_size = size = _input_size(model, cfg)
        self.source, shape = _source(model, (self.in_chans, *size), self.num_features)
        if self.source == "intermediates":
            self.num_features = shape[1]
        self.num_prefix_tokens = 0
        if len(shape) == 3:
            self.output_fmt = "NLC"
            self.num_prefix_tokens = _prefix_tokens(model, shape[1], size, self.feature_info)
        elif self.source != "intermediates":
            self.output_fmt = str(getattr(model, "output_fmt", None) or "NCHW")
        if class_token == "concat" and not self.num_prefix_tokens:
            raise ConfigError(f"class_token: {_name(model)} has no class token to set beside the pooled vector")
        self.token_features = self.num_features if class_token == "concat" else 0
        self.layers: tuple[str, ...] = ()
        self.layer_features: tuple[int, ...] = ()
        if layers is not None:
            self._choose(layers)
        if self.source != "forward" or FEATURES not in (self.layers or (FEATURES,)):
            # A run on several devices would wait for the gradients of what the features do not depend on.
            unused = unused_by(self._features_of, model, (self.in_chans, *size))
            _leave_out(model, unused.modules)
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(parameter.requires_grad and name not in unused.parameters)

    def _choose(self, layers: Sequence[str | int]) -> None:
        """Make the features those of several levels, each as a map (B, C, H, W)."""
        known = self.layer_names()
        if len(known) < 2:
            raise ConfigError(f"layers: {_name(self.model)} has no forward_intermediates that gives its levels")
        if self.token_features:
            raise ConfigError("layers: a class token stands beside the last features only; leave out class_token")
        for layer in layers:
            if isinstance(layer, int) and not -len(known) < layer < len(known) - 1:
                raise ConfigError(f"layers: {_name(self.model)} has {len(known) - 1} levels, 0 to {len(known) - 2}")
            if isinstance(layer, str) and layer not in known:
                raise UnknownNameError.of("layer", layer, known)
        self.layers = tuple(known[:-1][layer] if isinstance(layer, int) else layer for layer in layers)
        if not self.layers:
            raise ConfigError("layers: name at least one level")
        self._last_fmt, self._last_prefix = self.output_fmt, self.num_prefix_tokens
        shapes = self.layer_shapes(*self.input_size)
        self.layer_features = tuple(shape[1] for shape in shapes)
        self.num_features, self.output_fmt, self.num_prefix_tokens = self.layer_features[-1], "NCHW", 0

    def layer_shapes(self, height: int, width: int) -> list[tuple[int, ...]]:
        """Return the shapes (1, C, H, W) of the layers' maps for one image of this size."""
        return shapes_of(self._features_of, self.model, (self.in_chans, height, width))

    def layer_names(self) -> list[str]:
        """Return the names of the levels that `layers` can be of, first to last; "features" is the last."""
        if not hasattr(self.model, "forward_intermediates"):
            return [FEATURES]
        return [
            *(level["module"].removeprefix("model.") for level in self.feature_info if level.get("module")),
            FEATURES,
        ]

    def forward(self, x: Tensor) -> Any:
        """Return the features of images, as the model lays them out: see `output_fmt`; a tuple, with `layers`."""
        return self._features_of(self.model, x)

    def _features_of(self, model: Any, x: Tensor) -> Any:
        if not self.layers:
            return _SOURCES[self.source](model, x)
        known = self.layer_names()
        order = sorted({known.index(layer) for layer in self.layers} - {len(known) - 1})
        how: dict[str, Any] = {"norm": True, "output_fmt": "NCHW"}
        found: dict[str, Tensor] = {}
        if FEATURES not in self.layers:
            maps = model.forward_intermediates(x, indices=order, intermediates_only=True, stop_early=True, **how)
        elif not order or self.source == "intermediates":
            found[FEATURES] = self._last_map(_SOURCES[self.source](model, x))
            maps = model.forward_intermediates(x, indices=order, intermediates_only=True, **how) if order else []
        else:
            last, maps = model.forward_intermediates(x, indices=order, **how)
            found[FEATURES] = self._last_map(model.forward_head(last) if self.source == "forward" else last)
        found.update({known[index]: level for index, level in zip(order, maps, strict=True)})
        return tuple(found[layer] for layer in self.layers)

    def _last_map(self, x: Tensor) -> Tensor:
        """Turn the last features, in the model's own layout, into a map."""
        if self._last_fmt == "NLC":
            return x[:, self._last_prefix :].transpose(1, 2).unsqueeze(3)
        return x.permute(0, 3, 1, 2) if self._last_fmt == "NHWC" else x

    def positions(self, features: Any) -> tuple[Any, Tensor | None]:
        """Turn features into what a head pools: see `BackboneModule.positions`; with `layers`, they are maps."""
        return (features, None) if self.layers else super().positions(features)

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the last features for images of this size; for tokens, their number and 1."""
        shape = shapes_of(self._features_of, self.model, (self.in_chans, height, width))[-1]
        if self.output_fmt == "NLC":
            return shape[1] - self.num_prefix_tokens, 1
        return (shape[1], shape[2]) if self.output_fmt == "NHWC" else (shape[2], shape[3])

    def stem_parameters(self) -> list[nn.Parameter]:
        """Return the filters that see the image itself, as the model's configuration names them."""
        names = cast(dict[str, Any], self.model.pretrained_cfg).get("first_conv") or ()
        return [
            cast(nn.Parameter, self.model.get_submodule(name).weight)
            for name in ((names,) if isinstance(names, str) else names)
        ]

    def group_matcher(self, coarse: bool = False) -> Callable[[str], tuple[float, ...]]:
        """Group parameters by timm's own grouping of the model's layers."""
        from timm.models import group_parameters

        own: Any = self.model
        groups = group_parameters(own, own.group_matcher(coarse=coarse), reverse=True)
        return lambda name: (float(groups.get(name.removeprefix("model."), math.inf)),)

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that timm spares weight decay."""
        own: Any = getattr(self.model, "no_weight_decay", set)
        return {f"model.{name}" for name in own()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations again in the backward pass instead of keeping them, if the model can.

        Raises:
            ConfigError: it cannot.
        """
        own: Any = getattr(self.model, "set_grad_checkpointing", None)
        try:
            if own is None:
                raise AssertionError("no such method")
            own(enable)
        except (AssertionError, NotImplementedError, RuntimeError) as error:
            if enable:
                raise ConfigError(f"{_name(self.model)} has no gradient checkpointing ({error})") from error

    def forward_intermediates(self, x: Tensor, *args: Any, **options: Any) -> Any:
        """Give the features of several levels: see timm's own method of the model."""
        own: Any = getattr(self.model, "forward_intermediates", None)
        if own is None:
            return super().forward_intermediates(x)
        found = own(x, *args, **options)
        if self.source == "forward" and isinstance(found, tuple):  # the model's own norm may stand in its head
            return self.model.forward_head(found[0]), found[1]  # type: ignore[operator]
        if self.source == "intermediates" and isinstance(found, tuple):
            return _last_intermediate(self.model, x), found[1]
        return found

    def prune_intermediate_layers(self, *args: Any, **options: Any) -> list[int]:
        """Remove the layers after the last level that is asked for."""
        own: Any = getattr(self.model, "prune_intermediate_layers", None)
        return super().prune_intermediate_layers() if own is None else own(*args, **options)


def create_timm_model(name: str, pretrained: bool, **arguments: Any) -> nn.Module:
    """Build a timm model without classifier, and without pooling where timm can leave it out.

    Raises:
        UnknownNameError: timm has no such model; the text lists the nearest.
        ConfigError: the model does not take an argument, or its weights cannot be had.
    """
    import timm

    is_elsewhere = name.startswith(("hf-hub:", "hf_hub:", "local-dir:", "local_dir:"))
    if not is_elsewhere and not timm.is_model(name.partition(".")[0]):
        raise UnknownNameError.of("timm model", name, timm.list_models())
    without_pooling: tuple[dict[str, Any], ...] = ({"global_pool": ""}, {})
    for pooling in without_pooling:
        try:
            return timm.create_model(name, pretrained=pretrained, num_classes=0, **pooling, **arguments)
        except (AssertionError, TypeError, NotImplementedError) as error:  # timm asserts what a model does not offer
            reason: Exception = error
        except GmsopError:
            raise
        except Exception as error:
            if not pretrained and not is_elsewhere:
                raise ConfigError(f"timm cannot make {name} with {arguments}: {_line(error)}") from error
            raise ConfigError(
                f"the weights of {name} cannot be had: {_line(error)}. Without a network there are pretrained=False, "
                f"weights that were loaded before, and folders that timm's save_for_hf wrote: local-dir:FOLDER"
            ) from error
    raise ConfigError(f"timm cannot make {name} with {arguments}: {_line(reason)}") from reason


def _undilate(model: nn.Module) -> None:
    """Make every dilated convolution an ordinary one, whose map keeps its size."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and max(module.dilation) > 1:
            module.dilation = (1, 1)
            if not isinstance(module.padding, str) and any(module.padding):  # others pad in their own `forward`
                height, width = module.kernel_size
                module.padding = ((height - 1) // 2, (width - 1) // 2)


def _leave_out(model: nn.Module, names: Sequence[str]) -> None:
    """Put `nn.Identity` in the place of the modules of these names.

    Raises:
        ConfigError: the model has no module of a name.
    """
    for name in names:
        if name not in dict(model.named_modules(remove_duplicate=False)) or not name:
            raise ConfigError(f"left_out: {_name(model)} has no module {name!r}")
        model.set_submodule(name, nn.Identity())


def _remove_head(model: Any) -> None:
    try:
        model.reset_classifier(0, "")
    except (AssertionError, TypeError, NotImplementedError, ValueError):
        model.reset_classifier(0)


def _forward(model: Any, x: Tensor) -> Tensor:
    return cast(Tensor, model(x))


def _forward_features(model: Any, x: Tensor) -> Tensor:
    return cast(Tensor, model.forward_features(x))


def _last_intermediate(model: Any, x: Tensor) -> Tensor:
    maps = model.forward_intermediates(x, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)
    return cast(Tensor, maps[-1])


_SOURCES: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "forward": _forward,
    "features": _forward_features,
    "intermediates": _last_intermediate,
}
"""Where features can come from, in the order in which they are tried."""


def _source(model: nn.Module, size: Sequence[int], channels: int) -> tuple[str, tuple[int, ...]]:
    """Return the first source that gives something to pool, and its shape.

    Raises:
        ConfigError: there is none; the text says what was looked for and what was found.
    """
    found = []
    for name, source in _SOURCES.items():
        try:
            shapes = shapes_of(source, model, size)
            shape = shapes[0] if len(shapes) == 1 else ()
        except Exception as error:  # whatever a model says of a call that it does not know
            found.append(f"{name}: {_line(error)}")
            continue
        fmt = getattr(model, "output_fmt", None) if name != "intermediates" else "NCHW"
        axis = 1 if len(shape) == 4 and fmt != "NHWC" else -1
        right = name == "intermediates" or (len(shape) in (3, 4) and shape[axis] == channels)
        if right and math.prod(shape) > shape[axis]:
            return name, shape
        found.append(f"{name}: {shape or 'several tensors'}")
    raise ConfigError(
        f"{_name(model)} is no backbone for a pooling head: looked for one map (B, {channels}, H, W), or tokens "
        f"(B, N, {channels}), of more than one position; found {'; '.join(found)}"
    )


def _prefix_tokens(model: Any, tokens: int, size: tuple[int, int], info: list[dict[str, Any]]) -> int:
    """Return how many tokens stand before those of the positions.

    Raises:
        ConfigError: the model does not say, nor does the number of tokens.
    """
    own = getattr(model, "num_prefix_tokens", None)
    if own is not None:
        return int(own)
    sides = [math.ceil(side / info[-1]["reduction"]) for side in size] if info else [math.isqrt(tokens)] * 2
    positions = math.prod(sides)
    if tokens == positions:
        return 0
    if tokens == positions + 1 and getattr(model, "cls_token", None) is not None:
        return 1
    raise ConfigError(f"{_name(model)} gives {tokens} tokens and does not say which of them are positions")


def _plain_feature_info(model: Any) -> list[dict[str, Any]]:
    info = getattr(model, "feature_info", None) or []
    info = getattr(info, "info", info)
    return copy.deepcopy(list(info))


def _input_size(model: Any, cfg: Mapping[str, Any]) -> tuple[int, int]:
    """Return the height and width to probe with: what the model was built for."""
    for own in (getattr(getattr(model, "patch_embed", None), "img_size", None), getattr(model, "img_size", None)):
        if isinstance(own, tuple | list) and len(own) == 2 and cfg.get("fixed_input_size"):
            return int(own[0]), int(own[1])
    size = cfg["input_size"]
    return int(size[1]), int(size[2])


def _first_channels(model: nn.Module, cfg: Mapping[str, Any]) -> int:
    names = cfg.get("first_conv") or ()
    for name in (names,) if isinstance(names, str) else names:
        weight = getattr(model.get_submodule(name), "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 4:
            return int(weight.shape[1])
    return int(cfg["input_size"][0])


def _name(model: Any) -> str:
    return str((getattr(model, "pretrained_cfg", None) or {}).get("architecture") or type(model).__name__)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


register_backbone("timm", TimmBackbone, named=False, input={})
