"""`load_mpncov` turns a checkpoint of fast MPN-COV (iSQRT-COV) into a gmsop model."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from gmsop.convert.mpncov.layout import identify, state_from
from gmsop.errors import CheckpointError, GmsopError
from gmsop.models import PooledClassifier, build_spec
from gmsop.utils.files import digest
from gmsop.utils.torch_files import load_unpacked

INPUT = {
    "input_size": (3, 224, 224),
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "interpolation": "bilinear",
    "crop_pct": 224 / 256,
    "crop_mode": "center",
}
"""How their networks see ImageNet: the shorter side becomes 256 pixels, of which the middle 224 are taken."""


def load_mpncov(path: str | Path, dtype: torch.dtype = torch.float32) -> PooledClassifier:
    """Load the network of a fast MPN-COV checkpoint, in evaluation mode.

    It is a ResNet-50 or ResNet-101 whose last stage has stride 1, or a VGG-D with BatchNorm and without its last
    max-pooling; then a 1x1 convolution to 256 channels, the covariance's square root by five iterations, and the
    classifier, of VGG-D with two hidden layers. Which of them it is, the numbers of channels and of classes are read
    from the arrays. Columns of the layer after the pooling are reordered, as their triangle runs row by row.

    `model.pretrained_cfg` says how images are prepared, the same for all: as for ImageNet. Files do not tell. A network
    that was fine-tuned on other images (theirs: 448 pixels) needs its own. `source` says which file it was: its MD5.

    Args:
        path: a state dict, or a checkpoint of their training script (`net-epoch-*.pth.tar`), of any PyTorch.
        dtype: the dtype of the model's parameters.

    Raises:
        CheckpointError: no such file; damaged; more in it than tensors and plain values, of which nothing is run; not
            one of these networks; an array missing, left over or of a wrong shape, named.

    Source: Li et al., Towards Faster Training of Global Covariance Pooling Networks by Iterative Matrix Square Root
    Normalization, CVPR 2018; github.com/jiangtaoxie/fast-MPN-COV.
    """
    arrays, arch = read_arrays(path)
    try:
        spec, names = identify(arrays, arch)
        with torch.device("meta"):
            model = build_spec(spec)
        model.load_state_dict(state_from(model, arrays, names, dtype), assign=True)
    except GmsopError as error:
        raise CheckpointError(f"{path}: {error}") from error
    source = {"file": Path(path).name, "md5": digest(path, "md5")}
    model.pretrained_cfg.update(INPUT, source=source, num_classes=model.num_classes)
    return model.eval()


def is_torch_file(path: str | Path) -> bool:
    """Return whether a file begins as PyTorch's do: as a zip archive, or, before version 1.6, as a pickle."""
    if not Path(path).is_file():
        return False
    with Path(path).open("rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or start[:1] == pickle.PROTO


def read_arrays(path: str | Path) -> tuple[dict[str, Tensor], str]:
    """Return a checkpoint's tensors by name, without `module.`, and what it says the network is called, or "".

    Nothing in the file is executed.

    Raises:
        CheckpointError: missing, damaged, or not a state dict of tensors.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        content = load_unpacked(Path(path))
    except Exception as error:  # on a damaged file the unpickler may raise anything
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path}: to read it, {found[1]} would have to run. Only tensors and plain values are read: save "
                "`model.state_dict()`, not the model"
            ) from error
        line = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        raise CheckpointError(f"{path}: not a PyTorch file, or damaged ({line})") from error
    own: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    state = own.get("state_dict", own)
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path}: holds no state dict of tensors, but a {type(content).__name__}")
    arrays: dict[str, Tensor] = {}
    for key, value in state.items():
        if not isinstance(key, str) or not _is_plain(value):
            raise CheckpointError(f"{path}: no state dict of tensors: {key!r} is a {type(value).__name__}")
        name = re.sub(r"(^|\.)module\.", r"\1", key)
        if name in arrays:
            raise CheckpointError(f"{path}: two arrays are called {name}")
        arrays[name] = value
    arch = own.get("arch")
    return arrays, arch if isinstance(arch, str) else ""


def _is_plain(value: Any) -> bool:
    is_dense = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return is_dense and not value.is_quantized
