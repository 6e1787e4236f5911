"""`load_matconvnet` turns a MatConvNet checkpoint, as the authors' training saves it, into a gmsop model."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gmsop.convert.matconvnet.identify import identify
from gmsop.convert.matconvnet.layout import Arrays, state_from
from gmsop.convert.matconvnet.matfile import read_struct
from gmsop.errors import CheckpointError, DataWarning, GmsopError
from gmsop.models import PooledClassifier, build_spec
from gmsop.utils.files import digest

MATCONVNET_MD5 = {
    "cf9bcf22e416773052358870f7786e05": "gap_resnet18",
    "b4c60d7955d93e6145071a5157e2a2af": "sr_sop_resnet18",
    "f80738566ffe9cabb7a1e88ea6c79dcf": "gm_gap_16_8_resnet18",
    "ae26d1ccf77a568ceccaa878acc4d230": "gm_gap_16_8_wrn36_2",
    "6f0db9de2cbe233278ba8acca67a6f78": "gm_sop_16_8_resnet18",
    "d89ea02e557d087622eb1ea617d516be": "gm_sop_16_8_wrn36_2",
}
"""MD5 of the six weights files the authors released."""


def load_matconvnet(
    path: str | Path, dtype: torch.dtype = torch.float32, mean: Sequence[float] | None = None
) -> PooledClassifier:
    """Load the model of a MatConvNet checkpoint, in evaluation mode.

    Which of the official models it is, and all its widths, are read from the arrays; top-K, the number of iterations
    and the dropout rate from the layers' settings. Running variances are sigma^2 - eps, computed in double precision:
    with `dtype=torch.float64` the model agrees with the authors' code to rounding. `model.pretrained_cfg` says how
    images are prepared (`mean` and `std` in timm's units: pixels minus the file's RGB mean, undivided), and under
    `source` which file it came from: its MD5, and whether that is one the authors published.

    Args:
        path: `net-epoch-*.mat`, v5 to v7.3.
        dtype: the dtype of the model's parameters.
        mean: the RGB mean that is subtracted from pixels 0..255, for a file that does not say it. A warning tells of
            such a file, and of one that does not say top-K or the number of iterations.

    Raises:
        CheckpointError: no such file; damaged; not a GM-SOP network; a parameter missing, left over or of a wrong
            shape, named.
    """
    net = read_struct(path, "net", ("params", "layers"))
    try:
        params = _params(path, net)
        settings = _settings(net)
        with torch.device("meta"):  # nothing is allocated for a network whose parameters are not all there
            model = build_spec(identify(params, settings))
        model.load_state_dict(
            {k: v.to(dtype) if v.is_floating_point() else v for k, v in state_from(model, params).items()}, assign=True
        )
        _warn_unsaid(path, model, settings)
        _describe_input(model, path, net, mean)
    except GmsopError as error:
        text = str(error)
        raise CheckpointError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not what MatConvNet saves of a GM-SOP network ({error!r})") from error
    return model.eval()


def _params(path: str | Path, net: Any) -> Arrays:
    rows = net.get("params") if isinstance(net, dict) else None
    rows = [rows] if isinstance(rows, dict) else rows
    if (
        not isinstance(rows, list)
        or not rows
        or not all(isinstance(row, dict) and {"name", "value"} <= set(row) for row in rows)
    ):
        raise CheckpointError(
            f"{path}: `net` holds no list of named parameters. Expected the struct that MatConvNet's DagNN saves "
            "(`net = net.saveobj(); save(file, 'net')`)"
        )
    return {_text(row["name"]): np.asarray(row["value"]) for row in rows}


_SETTINGS = (("top_k", "topk", int), ("num_iters", "iterNum", int), ("drop_rate", "rate", float))


def _settings(net: Any) -> dict[str, Any]:
    """Return what the layers say and the parameters do not: top_k, num_iters, drop_rate."""
    layers = net.get("layers") if isinstance(net, dict) else None
    layers = [layers] if isinstance(layers, dict) else layers
    found: dict[str, Any] = {}
    for layer in layers if isinstance(layers, list) else []:
        block = layer.get("block")
        if isinstance(block, dict):
            for ours, theirs, kind in _SETTINGS:
                if theirs in block and np.size(block[theirs]) == 1:
                    found[ours] = kind(np.asarray(block[theirs]).item())
    return found


def _warn_unsaid(path: str | Path, model: PooledClassifier, settings: dict[str, Any]) -> None:
    """Warn of settings that change answers and that the file does not say."""
    assert model.spec is not None
    unsaid = [key for key in ("top_k", "num_iters") if key in model.spec.head_options and key not in settings]
    if unsaid:
        taken = ", ".join(f"{key} {model.spec.head_options[key]}" for key in unsaid)
        text = f"{path}: the file does not say {' and '.join(unsaid)}; taken as published: {taken}"
        warnings.warn(text, DataWarning, stacklevel=3)


def _describe_input(model: PooledClassifier, path: str | Path, net: Any, mean: Sequence[float] | None) -> None:
    md5 = digest(path, "md5")
    cfg: dict[str, Any] = {"source": {"file": Path(path).name, "md5": md5, "published": MATCONVNET_MD5.get(md5)}}
    meta = net.get("meta")
    normalization = meta.get("normalization", {}) if isinstance(meta, dict) else {}
    normalization = normalization if isinstance(normalization, dict) else {}
    said = normalization.get("averageImage")
    if mean is not None:
        values = np.asarray(mean, np.float64)
    elif said is None:
        used = ", ".join(f"{255 * v:.1f}" for v in model.pretrained_cfg["mean"])
        text = (
            f"{path}: the file does not say which mean is subtracted from pixels (meta.normalization.averageImage); "
            f"that of ImageNet is taken, {used}. If it was another, give it as mean"
        )
        warnings.warn(text, DataWarning, stacklevel=3)
        values = 255 * np.asarray(model.pretrained_cfg["mean"])
    else:
        values = np.asarray(said, np.float64)
        if values.ndim > 2:  # an average image rather than one colour
            values = values.mean((0, 1))
    values = np.zeros(model.in_chans) if values.size == 0 else values.flatten()  # [] subtracts nothing
    if values.size == 1:
        values = np.repeat(values, model.in_chans)
    if values.size != model.in_chans or not np.isfinite(values).all():
        raise CheckpointError(f"{path}: the mean should be {model.in_chans} numbers, found {values.size}: {values[:4]}")
    cfg |= {"mean": tuple(float(v) / 255 for v in values), "std": (1 / 255,) * values.size}
    size = np.asarray(normalization.get("imageSize", []), np.float64).flatten()
    if size.size >= 2:
        cfg["input_size"] = (model.in_chans, int(size[0]), int(size[1]))
    model.pretrained_cfg.update(cfg, num_classes=model.num_classes)


def _text(name: Any) -> str:
    return name if isinstance(name, str) else "".join(map(chr, np.asarray(name).flatten().astype(int)))
