"""ONNX, which onnxruntime, TensorRT, OpenVINO, browsers and telephones run."""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gmsop.errors import ConfigError
from gmsop.export.registry import EXPORT_FORMS, KEY, ExportForm, Run, Traced

OPSET = 20
"""What is written where nothing is said: what PyTorch writes by itself, and onnxruntime runs since 1.17."""
OLDEST, NEWEST = 18, 23
"""PyTorch's exporter writes opset 18 at least; after 23 its operators are not ONNX's any more."""


def write(traced: Traced, path: Path) -> str:
    """Write an ONNX file, weights included, with the description in its metadata.

    Raises:
        ConfigError: the opset is too old or too new, or the model needs a newer one.
    """
    opset = OPSET if traced.opset is None else traced.opset
    if not OLDEST <= opset <= NEWEST:
        raise ConfigError(f"opset {opset}: PyTorch writes {OLDEST} to {NEWEST}; without --opset it is {OPSET}")
    with _quiet():
        program: Any = torch.onnx.export(traced.program, dynamo=True, opset_version=opset, verbose=False)
    model = program.model
    written = model.opset_imports[""]
    if written != opset:
        raise ConfigError(f"opset {opset}: this model needs {written}; leave out --opset, or name that")
    for key, value in {KEY: json.dumps(dict(traced.description)), **_plain(traced.description)}.items():
        model.metadata_props[key] = value
    program.save(path, external_data=False)  # one file, which can be moved
    return f"ONNX, opset {opset}"


def _plain(description: Mapping[str, Any]) -> dict[str, str]:
    """Return what other programs look for, under short names."""
    own = description["input"]
    shown = {key: own[key] for key in ("mean", "std", "interpolation", "crop_mode", "crop_pct")}
    return {**{key: json.dumps(value) for key, value in shown.items()}, "classes": json.dumps(description["classes"])}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyTorch's exporter from printing; what matters is raised."""
    with warnings.catch_warnings(), Path(os.devnull).open("w") as null, redirect_stdout(null):
        warnings.simplefilter("ignore")
        yield


def run(path: Path) -> Run:
    """Open a file in onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads would slow others
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def logits(images: NDArray[Any]) -> NDArray[np.float32]:
        return session.run(None, {name: images})[0]

    return logits


def read_description(path: Path) -> Mapping[str, Any] | None:
    """Return the description in a file's metadata."""
    import onnx

    for entry in onnx.load(path, load_external_data=False).metadata_props:
        if entry.key == KEY:
            found: Mapping[str, Any] = json.loads(entry.value)
            return found
    return None


EXPORT_FORMS.add(
    "onnx",
    ExportForm(
        "onnx", ".onnx", write, run, read_description, needs=("onnx", "onnxscript", "onnxruntime"), has_opset=True
    ),
)
