"""Model files hold weights in safetensors, and in the header a description from which the model is built again.

Training checkpoints (`.ckpt`, written by Lightning) carry the same description, and load the same way.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gmsop.backbones.protocol import BackboneModule
from gmsop.data.transforms import CropMode
from gmsop.errors import CheckpointError, ConfigError, GmsopError
from gmsop.models import ModelSpec, PooledClassifier, build_spec
from gmsop.models.attach import as_backbone
from gmsop.models.bounded_build import require_known_dtypes, without_memory
from gmsop.models.hub import from_folder_or_hub
from gmsop.models.names import named_spec
from gmsop.utils.files import writing
from gmsop.utils.options import Range, in_words, is_valid
from gmsop.weights.training_file import first_line, read_training_checkpoint

FORMAT, VERSION = "gmsop-model", 3
FIRST_TO_CROP = 3
"""First version whose models see images cropped as their description says. Older ones squashed every image."""
MAX_SIZE = 2**11
"""Largest width and height, in pixels, that a model file may ask for."""
UNCHECKED = frozenset({"training", "momentum", "inplace", "grad_checkpointing"})
"""Attributes of modules that change no answer of a saved model, so they may differ from those of a fresh one."""
_INPUT_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "source", "label_names")


def describe(model: PooledClassifier) -> dict[str, Any]:
    """Return the model's `ModelSpec` and how its images are prepared, as JSON can hold them.

    Raises:
        ConfigError: a model that was composed by hand.
    """
    if model.spec is None:
        raise ConfigError("the model was composed by hand: there is no description from which it could be built again")
    cfg = {key: model.pretrained_cfg[key] for key in _INPUT_KEYS if key in model.pretrained_cfg}
    return {"format": FORMAT, "version": VERSION, "spec": model.spec.to_dict(), "input": cfg}


def spec_of(description: dict[str, Any]) -> ModelSpec:
    """Return the `ModelSpec` of a description, also of one of version 1: a model's name and what differs from it.

    Raises:
        GmsopError, KeyError, TypeError, ValueError, AttributeError: not a description of a model.
    """
    if "spec" in description:
        return ModelSpec.from_dict(description["spec"])
    arguments = dict(description["init_args"])
    spec = replace(
        named_spec(description["name"]),
        num_classes=description["num_classes"],
        in_chans=arguments.pop("in_chans", 3),
    )
    return spec.with_options(**arguments)


def rebuild(
    description: dict[str, Any], state: dict[str, Tensor], source: str | Path, backbone: nn.Module | None = None
) -> PooledClassifier:
    """Build the model of a `describe`, with its weights, in evaluation mode.

    Args:
        backbone: the module that the head sat on, where gmsop cannot build it.

    Raises:
        CheckpointError: the weights are not those of the model described; the entries are named. The head sat on a
            module that is not given, or on another one.
    """
    try:
        spec = spec_of(description)
        _check_input(description["input"], spec)
        extra = {k: tuple(v) if k in ("mean", "std", "input_size") else v for k, v in description["input"].items()}
        if description.get("version", 1) < FIRST_TO_CROP:
            extra |= {"crop_mode": "squash", "crop_pct": 1.0}
        require_known_dtypes(state, source)
        trunk = _given(backbone, spec, source)
        with without_memory(source, len(state)):
            planned = build_spec(spec, trunk)
        _require_same(planned, state, source)
        model = build_spec(spec, trunk)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, GmsopError) as error:
        raise CheckpointError(f"{source}: the description of the model is not one of gmsop's ({error})") from error
    model.pretrained_cfg.update(extra, num_classes=model.num_classes)
    dtypes = {value.dtype for value in state.values() if value.is_floating_point()}
    if len(dtypes) == 1:  # a model saved in another precision is one
        model.to(dtypes.pop())
    load_state(model, state, source)
    return model.eval()


def _given(backbone: nn.Module | None, spec: ModelSpec, source: str | Path) -> BackboneModule | None:
    """Make a backbone of the module that a head sat on."""
    if spec.backbone != "module":
        if backbone is not None:
            raise CheckpointError(f"{source}: gmsop builds the backbone of this model itself: leave out backbone")
        return None
    note = spec.backbone_options["note"]
    if backbone is None:
        raise CheckpointError(
            f"{source}: a head that sat on a module which gmsop cannot build ({note}): build it and pass it, "
            "gmsop.load_model(path, backbone=module)"
        )
    options = {k: v for k, v in spec.backbone_options.items() if k != "note" and (k, v) != ("layers", None)}
    if hasattr(backbone, "forward_features") and getattr(backbone, "pretrained_cfg", None):
        options = {key: options[key] for key in ("class_token", "layers") if options.get(key) is not None}
    trunk, _, described = as_backbone(backbone, spec.in_chans, options)
    if described.get("note", note) != note:
        raise CheckpointError(f"{source}: the head sat on another module: {note}, given is {described['note']}")
    return trunk


def _check_input(cfg: dict[str, Any], spec: ModelSpec) -> None:
    """Refuse an input preparation that images could not go through."""
    channels = spec.in_chans
    numbers = [float(v) for key in ("mean", "std") if key in cfg for v in cfg[key]]
    if any(len(cfg[key]) != channels for key in ("mean", "std") if key in cfg) or not all(map(math.isfinite, numbers)):
        raise ConfigError(f"mean and std must be {channels} numbers each")
    if "std" in cfg and min(cfg["std"]) <= 0:
        raise ConfigError("std must be positive")
    size = cfg.get("input_size", (channels, 1, 1))
    if len(size) != 3 or not all(isinstance(v, int) and 0 < v <= MAX_SIZE for v in size):
        raise ConfigError(f"input_size must be three sizes up to {MAX_SIZE}, got {size}")
    names = cfg.get("label_names")
    if names is not None and (
        not isinstance(names, list)
        or len(names) != spec.num_classes
        or not all(isinstance(name, str) for name in names)
    ):
        raise ConfigError(f"label_names must be {spec.num_classes} names")
    if not isinstance(cfg.get("interpolation", ""), str):
        raise ConfigError("interpolation must be a text")
    if not is_valid(cfg.get("crop_mode", "center"), CropMode):
        raise ConfigError(f"crop_mode must be {in_words(CropMode)}, got {cfg['crop_mode']!r}")
    if not is_valid(cfg.get("crop_pct", 1.0), Annotated[float, Range(above=0, most=1)]):
        raise ConfigError(f"crop_pct must be a share, got {cfg['crop_pct']!r}")


def load_state(model: PooledClassifier, state: dict[str, Tensor], source: str | Path) -> None:
    """Load weights as `model.load_state_dict` does, with an error that names what differs.

    Raises:
        CheckpointError: entries missing, left over, or of another shape.
    """
    _require_same(model, state, source)
    model.load_state_dict(state, strict=not _is_on_module(model))


def _require_same(model: PooledClassifier, state: dict[str, Tensor], source: str | Path) -> None:
    if text := _differences(_own_state(model), state):
        name = model.pretrained_cfg.get("architecture", "this model")
        raise CheckpointError(f"{source}: the weights are not those of {name}: {text}")


def _is_on_module(model: PooledClassifier) -> bool:
    """Whether the backbone is a module that gmsop cannot build: its weights are its user's business."""
    return model.spec is not None and model.spec.backbone == "module"


def _own_state(model: PooledClassifier) -> dict[str, Tensor]:
    """The tensors that a file of the model holds."""
    state = model.state_dict()
    return {k: v for k, v in state.items() if not k.startswith("backbone.")} if _is_on_module(model) else state


def _differences(wanted: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    """Return in words which entries of `state` are not as in `wanted`; "" if all are."""
    problems = {
        "missing": [k for k in wanted if k not in state],
        "left over": [k for k in state if k not in wanted],
        "of another shape": [k for k in wanted if k in state and state[k].shape != wanted[k].shape],
    }
    return "; ".join(
        f"{len(keys)} {what} ({', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''})"
        for what, keys in problems.items()
        if keys
    )


def _require_described(model: PooledClassifier, spec: ModelSpec) -> None:
    """Refuse a model with a module, tensor or attribute that was changed since the model was built.

    Its `ModelSpec` holds constructor arguments only; what was set later would not be saved.
    """
    with torch.device("meta"):
        built = build_spec(spec, model.backbone if _is_on_module(model) else None)  # type: ignore[arg-type]
    text = _differences(_own_state(built), _own_state(model))
    own, wanted = _settings(model), _settings(built)
    changed = [key for key in wanted | own if own.get(key) != wanted.get(key)]
    if text := text or ", ".join(f"{key} is {own.get(key)}" for key in changed[:4]):
        raise ConfigError(
            f"the model is not {spec.name} as it was built any more: {text}. Give create_model what should differ; for "
            "other classes there is reset_classifier"
        )


def _settings(model: PooledClassifier) -> dict[str, Any]:
    """Return the class and the plain attributes of every module, by their place in the model."""
    found: dict[str, Any] = {}
    for place, module in model.named_modules():
        dot = f"{place}." if place else ""
        found[f"{dot}class"] = "BatchNorm" if isinstance(module, _BATCH_NORMS) else type(module).__name__
        for name, value in vars(module).items():
            if not name.startswith("_") and name not in UNCHECKED and _is_plain(value):
                found[f"{dot}{name}"] = value
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str)


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
"""Modules that answer alike in evaluation."""


def save_model(model: PooledClassifier, path: str | Path) -> None:
    """Write weights and description to `path` (safetensors). A file that stood there is replaced whole or not at all.

    Args:
        model: one of gmsop's, compiled or not.

    Raises:
        ConfigError: the model is not one of gmsop's, or could not be loaded again.
        WriteError: no space, no permission.
    """
    model = getattr(model, "_orig_mod", model)  # torch.compile wraps the model
    if not isinstance(model, PooledClassifier) or model.spec is None:
        own = " with a head or backbone of one's own" if isinstance(model, PooledClassifier) else ""
        kind = type(model).__name__
        raise ConfigError(f"save_model takes a model of gmsop.create_model or gmsop.attach, got a {kind}{own}")
    description = describe(model)
    assert model.spec is not None
    _check_input(description["input"], model.spec)
    _require_described(model, model.spec)
    # These are copies, since safetensors refuses tensors that share memory, as those of tied components do.
    state = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in _own_state(model).items()}
    with writing(path) as temporary:
        try:
            save_file(state, temporary, metadata={"gmsop": json.dumps(description)})
        except SafetensorError as error:  # it wraps the operating system's error in text
            raise OSError(28 if "No space" in str(error) else 5, str(error)) from error


def load_model(path: str | Path, averaged: bool = True, backbone: nn.Module | None = None) -> PooledClassifier:
    """Load a model in evaluation mode.

    Args:
        path: a `.safetensors` file of `save_model`, a training checkpoint, a run's folder, a folder of
            `save_pretrained` or of timm's `save_for_hf`, or "hf-hub:user/name".
        averaged: if a training checkpoint also holds an average of the weights, take the average. False: the weights.
        backbone: the module that a head sat on, where gmsop cannot build it; its weights are taken as they are.

    Returns:
        The model in the dtype it was saved in; in float32 where there were several.

    Raises:
        CheckpointError: the file is missing, truncated, or no model of gmsop's.
    """
    if str(path).startswith("hf-hub:"):
        return from_folder_or_hub(str(path))
    path = Path(path)
    if path.is_dir():
        file = path / "model.safetensors"
        if (path / "config.json").is_file() and not _is_ours(file):
            return from_folder_or_hub(path)
        if not file.is_file():
            raise CheckpointError(f"{path}: a folder without {file.name}; name the file in it")
        path = file
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix in (".onnx", ".pt2"):
        raise CheckpointError(f"{path}: an exported file, which other programs run; name the model it was made of")
    try:
        if path.suffix == ".ckpt":
            return _load_training_checkpoint(path, averaged, backbone)
        if not averaged:
            raise CheckpointError(f"{path} holds one set of weights; both are in a run's .ckpt files")
        return _load_safetensors(path, backbone)
    except GmsopError:
        raise
    except Exception as error:  # the file is whole, but what it says makes no sense
        raise CheckpointError(f"{path}: not written by gmsop, or damaged ({first_line(error)})") from error


def _is_ours(file: Path) -> bool:
    """Whether the file holds a description of a model of gmsop's."""
    try:
        with safe_open(file, framework="pt") as opened:
            return "gmsop" in (opened.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _load_safetensors(path: Path, backbone: nn.Module | None) -> PooledClassifier:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or truncated ({error})") from error
    if "gmsop" not in metadata:
        raise CheckpointError(
            f"{path}: holds weights but no description of a gmsop model. Build the model and use load_state_dict, "
            "or write the file with gmsop.save_model"
        )
    return rebuild(json.loads(metadata["gmsop"]), state, path, backbone)


def _load_training_checkpoint(path: Path, averaged: bool, backbone: nn.Module | None) -> PooledClassifier:
    checkpoint = read_training_checkpoint(path)
    prefix, entry = "model.", "state_dict" if averaged else "current_model_state"
    if entry not in checkpoint:
        raise CheckpointError(f"{path}: holds no average of the weights, only the weights: its recipe has no ema_decay")
    state = {k.removeprefix(prefix): v for k, v in checkpoint[entry].items() if k.startswith(prefix)}
    return rebuild(checkpoint["gmsop"]["model"], state, path, backbone)
