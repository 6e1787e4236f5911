"""A recipe small enough for tests, and the weights of what it trained."""

from pathlib import Path

import torch

from gmsop.training.recipe import Recipe
from gmsop.weights.model_file import load_model

TINY = {
    "model": "gm_sop_4_2_tiny",
    "epochs": [2],
    "batch_size": 30,
    "lr": 0.05,
    "normalize": "mean_std",
    "stem_scale": 1,
}


def recipe(**changes) -> Recipe:
    return Recipe(**(TINY | changes))


def weights(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return load_model(folder / name).state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))
