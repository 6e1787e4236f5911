"""What a Trainer sets for the whole process is as before when gmsop's functions end."""

import logging
import os
import warnings

import pytest
import torch
from tiny import recipe

import gmsop
from gmsop.data import PackedDataset
from gmsop.engine.trainer import WORKSPACE, make_trainer, settings_as_before
from gmsop.training.run import train


def state() -> tuple[object, ...]:
    memory = torch.utils.deterministic
    return (
        list(warnings.filters),
        logging.getLogger("lightning.pytorch").level,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        memory.fill_uninitialized_memory,
        os.environ.get(WORKSPACE),
    )


def test_a_trainer_sets_them_and_they_are_restored():
    before = state()
    with settings_as_before():
        make_trainer(False, accelerator="cpu")
        inside = state()
    assert all(a != b for a, b in zip(inside[:3], before[:3], strict=True))
    assert state() == before


@pytest.mark.parametrize("what", ["train", "evaluate", "a failure"])
def test_training_and_evaluation_leave_no_trace(what, small_set, tmp_path):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    before = state()
    if what == "train":
        train(recipe(epochs=[1]), small_set, tmp_path / "x")
    elif what == "evaluate":
        gmsop.evaluate(gmsop.create_model("gap_tiny", 10), PackedDataset(small_set, "val"))
    else:
        with pytest.raises(gmsop.GmsopError):
            train(recipe(epochs=[1], batch_size=7, accumulate=7), small_set, tmp_path / "x")
    assert state() == before
