"""Measure the table of inference of `gmsop benchmark`."""

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmsop.backbones import BACKBONES
from gmsop.errors import UnknownNameError
from gmsop.export.forms import onnx_file
from gmsop.models import create_model, list_models
from gmsop.models.names import named_spec
from gmsop.models.spec import default_spec
from gmsop.speed.registry import FLOAT32, register_table
from gmsop.speed.timing import Measurement, compare, relative_error


@register_table("inference")
def inference_table(device: torch.device, small: bool = False, models: str = "*") -> Iterator[Measurement]:
    """Latency of models in evaluation at batch 1 and 64: eager, compiled, onnxruntime where it is installed.

    The same backbone under average pooling, eager, is timed in turn, so that the ratios say what another head costs.
    """
    names = (
        ["gap_tiny", "gm_sop_4_2_tiny"]
        if small
        else [n for n in list_models(models) if BACKBONES[named_spec(n).backbone].paper]
    )
    if not names:
        raise UnknownNameError.of("model", models, list_models())
    for name in names:
        plain = default_spec(named_spec(name).backbone, "gap").name
        evaluated = {n: _untrained(n, device) for n in dict.fromkeys((plain, name))}
        model = evaluated[name]
        for batch in [1] if small else [1, 64]:
            images = torch.randn(batch, 3, 64, 64, device=device)
            runs = {f"{n}, eager": _evaluation(m, images) for n, m in evaluated.items()}
            if not small:
                torch.compiler.reset()
                runs["compiled"] = _evaluation(torch.compile(model, fullgraph=True), images)
                if device.type == "cpu" and all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))):
                    runs["onnxruntime"] = _onnx(model, images)
            exact = {f"{n}, eager": _in_float64(m, images) for n, m in evaluated.items()}
            errors = {way: relative_error(torch.as_tensor(run()), exact.get(way, exact[f"{name}, eager"]))
                      for way, run in runs.items()}  # fmt: skip
            bounds = dict.fromkeys(runs, FLOAT32)
            yield from compare(f"{name}, batch {batch}", runs, errors, bounds, device, rounds=5 if small else 15)


def _untrained(name: str, device: torch.device) -> torch.nn.Module:
    """Return an untrained model for evaluation. A gate, if it has one, gets random weights, so that it decides."""
    model = create_model(name).to(device).eval()
    for parameter in (p for n, p in model.named_parameters() if n.endswith("gate.weight")):
        torch.nn.init.normal_(parameter)
    return model


@torch.no_grad()
def _in_float64(model: torch.nn.Module, images: Tensor) -> Tensor:
    out = model.double()(images.double())
    model.float()
    return out


def _evaluation(model: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], Tensor]:
    return torch.no_grad()(lambda: model(images))


def _onnx(model: torch.nn.Module, images: Tensor) -> Callable[[], Any]:
    program = torch.onnx.export(model, (images,), dynamo=True, verbose=False)
    assert program is not None
    with tempfile.TemporaryDirectory() as folder:
        program.save(f"{folder}/model.onnx")
        run = onnx_file.run(Path(folder) / "model.onnx")
    pixels = images.numpy()
    return lambda: run(pixels)
