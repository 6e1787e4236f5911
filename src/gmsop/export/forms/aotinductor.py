"""A library compiled ahead of time by AOTInductor for this machine's processor, which C++ programs load, too."""

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gmsop.errors import ConfigError
from gmsop.export.registry import EXPORT_FORMS, KEY, ExportForm, Run, Traced
from gmsop.ops.torch_private import aot_inductor


def write(traced: Traced, path: Path) -> str:
    """Compile the program and write the package, with the description in its metadata.

    Raises:
        ConfigError: there is no C++ compiler.
    """
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise ConfigError("aotinductor compiles C++: there is no g++ on this machine")
    inductor = _inductor()
    package = path.with_name(f"{path.name}.pt2")  # PyTorch insists on its extension
    configs = {"aot_inductor.metadata": {KEY: json.dumps(dict(traced.description))}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch's own code, to itself
            inductor.aoti_compile_and_package(traced.program, package_path=str(package), inductor_configs=configs)
        package.replace(path)
    finally:
        package.unlink(missing_ok=True)
    return f"AOTInductor package of PyTorch {torch.__version__}, for this machine's processor"


def _inductor() -> Any:
    found = aot_inductor()
    if found is None:
        raise ConfigError(f"PyTorch {torch.__version__} has no AOTInductor any more that is known here")
    return found


def _loaded(path: Path) -> Any:
    with path.open("rb") as file:
        return _inductor().aoti_load_package(file)


def run(path: Path) -> Run:
    """Load a package."""
    model = _loaded(path)

    def logits(images: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()

    return logits


def read_description(path: Path) -> Mapping[str, Any] | None:
    """Return the description in a package's metadata."""
    found = _loaded(path).get_metadata().get(KEY)
    return json.loads(found) if found else None


EXPORT_FORMS.add("aotinductor", ExportForm("aotinductor", ".aot.pt2", write, run, read_description))
