"""A program of `torch.export`, which any process with PyTorch alone loads, compiles and runs, also on a GPU."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gmsop.export.registry import EXPORT_FORMS, KEY, ExportForm, Run, Traced

_FILE = f"{KEY}.json"


def write(traced: Traced, path: Path) -> str:
    """Write the program, with the description as an extra file in it."""
    with path.open("wb") as file:  # given a path, PyTorch insists on its extension
        torch.export.save(traced.program, file, extra_files={_FILE: json.dumps(dict(traced.description))})
    return f"torch.export program of PyTorch {torch.__version__}"


def run(path: Path) -> Run:
    """Load a program."""
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def logits(images: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()

    return logits


def read_description(path: Path) -> Mapping[str, Any] | None:
    """Return the description in a program's extra files."""
    extra = {_FILE: ""}
    with path.open("rb") as file:
        torch.export.load(file, extra_files=extra)
    return json.loads(extra[_FILE]) if extra[_FILE] else None


EXPORT_FORMS.add("torch-export", ExportForm("torch-export", ".pt2", write, run, read_description))
