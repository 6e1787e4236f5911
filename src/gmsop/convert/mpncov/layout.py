"""This file translates fast MPN-COV's names and the order of its triangle into ours.

Their ResNets have two sets of names. Files for download have torchvision's (`layer1.0.conv1`), with `layer_reduce`,
`layer_reduce_bn` and `fc`. Their training script takes the network apart into `features`, whose children are numbered,
`representation` and `classifier`. VGG-D always has the latter. `module.`, which DataParallel adds, is removed before.
"""

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from gmsop.errors import CheckpointError
from gmsop.models import ModelSpec, PooledClassifier
from gmsop.models.spec import default_spec

Arrays = Mapping[str, Tensor]
NUM_ITERS = 5
"""Newton-Schulz iterations of all their networks; the arrays do not tell."""
SHOWN = 8
"""So many arrays of a kind are named in an error."""


def identify(arrays: Arrays, arch: str = "") -> tuple[ModelSpec, dict[str, str]]:
    """Return the description of the network with these arrays, and for our modules the names of theirs.

    Args:
        arrays: by their names, without `module.`.
        arch: what the training script calls the network. It alone tells `resnet50` with MPN-COV, whose last stage has
            stride 2, from `mpncovresnet50`, where it has stride 1; without it, the latter is assumed, with a warning.

    Raises:
        CheckpointError: the arrays are not those of a fast MPN-COV network.
    """
    if any(re.match(r"layer\d\.\d+\.", name) for name in arrays):
        names = {"backbone.model": "", "pool.reduce.0": "layer_reduce", "pool.reduce.1": "layer_reduce_bn", "fc": "fc"}
        return _resnet(arrays, r"layer3\.(\d+)\.", names, last_stride=1), names
    if any(re.match(r"features\.\d+\.\d+\.", name) for name in arrays):
        children = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        names = {f"backbone.model.{child}": f"features.{i}" for i, child in enumerate(children)} | {"fc": "classifier"}
        is_whole = "features.8.weight" in arrays  # fine-tuned: the reduction is among the features
        names["pool.reduce.0"] = "features.8" if is_whole else "representation.conv_dr_block.0"
        names["pool.reduce.1"] = "features.9" if is_whole else "representation.conv_dr_block.1"
        if not arch and not is_whole:
            warnings.warn("the file does not name its network: a last stage of stride 1 is assumed", stacklevel=3)
        last_stride = 2 if arch.startswith("resnet") and not is_whole else 1
        return _resnet(arrays, r"features\.6\.(\d+)\.", names, last_stride), names
    if any(re.match(r"features\.\d+\.", name) for name in arrays):
        return _vgg(arrays)
    raise CheckpointError("not a fast MPN-COV network: no array layer1.0.conv1.weight (ResNet) or features.0.weight")


def _resnet(arrays: Arrays, block: str, names: Mapping[str, str], last_stride: int) -> ModelSpec:
    blocks = 1 + max((int(found[1]) for name in arrays if (found := re.match(block, name))), default=0)
    depth = 101 if blocks > 6 else 50  # which blocks there are otherwise, the names of the arrays decide
    prefix = "mpncov" if last_stride == 1 else "mpncov_stride2_"
    spec = default_spec(
        "timm",
        "sr_sop",
        f"{prefix}resnet{depth}",
        channels=2048,
        model=f"resnet{depth}",
        output_stride=16 if last_stride == 1 else None,
        dilated=last_stride != 1,
        reduced_dim=_rows(arrays, f"{names['pool.reduce.0']}.weight"),
        num_iters=NUM_ITERS,
    )
    return replace(spec, num_classes=_rows(arrays, f"{names['fc']}.weight"))


def _vgg(arrays: Arrays) -> tuple[ModelSpec, dict[str, str]]:
    names = {"backbone.model": ""}
    has_one_layer = "classifier.weight" in arrays  # fine-tuned
    fc_dims = None if has_one_layer else tuple(_rows(arrays, f"classifier.{i}.weight") for i in (0, 3))
    names |= {"fc": "classifier"} if has_one_layer else {"fc": "classifier.6", "pool.layers": "classifier"}
    names["pool.reduce" if has_one_layer else "pool.pool.reduce"] = "representation.conv_dr_block"
    spec = default_spec(
        "timm",
        "sr_sop",
        "mpncovvgg16_bn",
        channels=512,
        model="vgg16_bn",
        left_out=("features.43", "pre_logits"),
        reduced_dim=_rows(arrays, "representation.conv_dr_block.0.weight"),
        num_iters=NUM_ITERS,
        fc_dims=fc_dims,
        fc_drop_rate=0.0 if has_one_layer else 0.5,
        drop_rate=0.0 if has_one_layer else 0.5,
    )
    return replace(spec, num_classes=_rows(arrays, f"{names['fc']}.weight")), names


def _rows(arrays: Arrays, name: str) -> int:
    if name not in arrays or not arrays[name].numel():
        raise CheckpointError(f"not a fast MPN-COV network: no array {name}, or an empty one")
    return arrays[name].shape[0] if arrays[name].dim() else 1


def state_from(
    model: PooledClassifier, arrays: Arrays, names: Mapping[str, str], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return the model's state dict from a file's arrays: every array is used, every entry filled.

    BatchNorm's `num_batches_tracked`, which files of early PyTorch lack, is then 0.

    Args:
        names: of our modules, what theirs are called.
        dtype: of the state dict.

    Raises:
        CheckpointError: arrays missing, left over, or of a shape that is not the model's; each is named.
    """
    state: dict[str, Tensor] = {}
    used, missing, wrong = set(), [], []
    wanted = model.state_dict()
    after_triangle = "pool.layers.0.weight" if "pool.layers.0.weight" in wanted else "fc.weight"
    for key, like in wanted.items():
        source = _theirs(key, names)
        used.add(source)
        value = arrays.get(source)
        is_count = key.endswith("num_batches_tracked")
        if value is None and is_count:
            state[key] = torch.zeros(like.shape, dtype=like.dtype)
        elif value is None:
            missing.append(source)
        elif value.shape != like.shape:
            wrong.append(f"{source} {tuple(value.shape)}, for {key} {tuple(like.shape)}")
        elif value.is_floating_point() == is_count:
            wrong.append(f"{source} (holds {value.dtype})")
        elif not torch.stack(value.aminmax()).isfinite().all():
            wrong.append(f"{source} (holds NaN or infinity)")
        else:
            value = value[:, their_positions(model)] if key == after_triangle else value
            own = torch.empty(like.shape, dtype=like.dtype if is_count else dtype)  # arrays in a file may share memory
            state[key] = own.copy_(value)
    leftover = [name for name in arrays if name not in used]
    problems = {"missing": missing, "of a wrong shape or content": wrong, "left over": leftover}
    if any(problems.values()):
        text = "; ".join(f"{len(found)} {what}: {_listed(found)}" for what, found in problems.items() if found)
        raise CheckpointError(f"the arrays do not fit {model.spec.name if model.spec else 'the network'}: {text}")
    return state


def _theirs(key: str, names: Mapping[str, str]) -> str:
    """Return their name of an entry of our state dict."""
    ours = max((name for name in names if key.startswith(f"{name}.")), key=len)
    return f"{names[ours]}{key.removeprefix(ours)}".removeprefix(".")


def their_positions(model: PooledClassifier) -> Tensor:
    """Return for every element of our triangle where it stands in theirs.

    Ours goes through the upper triangle column by column (see `gmsop.ops.triu_vectorize`), theirs row by row, as
    `torch.triu_indices` does.
    """
    assert model.spec is not None
    dim = int(model.spec.head_options["reduced_dim"])
    columns, rows = torch.tril_indices(dim, dim)
    return rows * (2 * dim - rows + 1) // 2 + columns - rows


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f", and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
