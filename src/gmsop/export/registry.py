"""Register the forms of exported files by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gmsop.utils.registry import Registry

Run = Callable[[NDArray[Any]], NDArray[np.float32]]
"""From a batch of inputs to logits."""


class Traced(NamedTuple):
    """Holds what is written: a traced model, and what is to be known of it."""

    program: torch.export.ExportedProgram
    description: Mapping[str, Any]
    """See `gmsop.export.description`."""
    opset: int | None
    """Which set of ONNX's operators; None: the form's own choice."""


@dataclass(frozen=True)
class ExportForm:
    """Says how a form is written and run."""

    name: str
    suffix: str
    write: Callable[[Traced, Path], str]
    """Writes the file; returns in a few words what it is made of, such as the opset."""
    run: Callable[[Path], Run]
    """Opens the file as a program elsewhere would."""
    read_description: Callable[[Path], Mapping[str, Any] | None]
    """Returns the description; None of a file that has none."""
    needs: tuple[str, ...] = ()
    """Packages beside gmsop's own."""
    has_opset: bool = False


EXPORT_FORMS: Registry[ExportForm] = Registry("export form", "gmsop.export.forms")
KEY = "gmsop"
"""Under which a file's metadata holds the description."""
