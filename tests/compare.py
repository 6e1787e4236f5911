"""Comparisons the tests share."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def relative_error(found: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> float:
    """||found - expected|| / ||expected||; NaN anywhere gives NaN, which no bound lets pass."""
    found = torch.as_tensor(found).detach().double()
    expected = torch.as_tensor(expected).detach().double()
    assert found.shape == expected.shape, (found.shape, expected.shape)
    scale = expected.norm()
    return ((found - expected).norm() / (scale if scale > 0 else 1)).item()


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name) as file:
        return {key: file[key] for key in file.files}


def symmetrised(a: Tensor) -> Tensor:
    return (a + a.mT) / 2


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """New tensors of floating point start as NaN: what is not written shows."""

    def poisoned(new):
        def make(*args, **options):
            tensor = new(*args, **options)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return make

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
