"""Two processes train on photographs as one does, also where the backbone learns from the second epoch on."""

import os
import subprocess
import sys

import pytest
import torch
from photos import make_photos
from tiny import weights

from compare import relative_error
from gmsop.cli import main

pytestmark = [
    pytest.mark.xdist_group("processes"),  # each starts some: not two of these at a time
    pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without torch.distributed"),
]


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(tmp_path):
    """In float64, without BatchNorm statistics of a batch, and without random numbers of a process."""
    photos = make_photos(tmp_path / "my photos")
    words = [
        "train", "--backbone", "test_resnet", "--head", "gap", "--pretrained", "false", "--image_size", "64", "--data",
        str(photos), "--epochs", "2", "--warmup_epochs", "0", "--num_workers", "1", "--batch_size", "6", "--precision",
        "64-true", "--frozen_batchnorm", "true", "--freeze", "backbone", "--unfreeze_epoch", "1", "--optimizer", "sgd",
        "--lr", "0.01", "--layer_decay", "0.8", "--auto_augment", "rand-m5-inc1", "--color_jitter", "0",
    ]  # fmt: skip
    assert main([*words, "--accelerator", "cpu", "--devices", "1", "--out", str(tmp_path / "one")]) == 0
    on_two = ["--accelerator", "cpu", "--devices", "2", "--out", str(tmp_path / "two")]
    two = subprocess.run(
        [sys.executable, "-m", "gmsop.cli", *words, *on_two],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert two.returncode == 0, two.stdout + two.stderr
    one, other = weights(tmp_path / "one"), weights(tmp_path / "two")
    fresh = weights(tmp_path / "one", "previous.ckpt")
    assert any(not torch.equal(fresh[name], one[name]) for name in one if name.startswith("backbone."))
    for name, value in one.items():
        if value.is_floating_point():
            assert relative_error(other[name], value) < 1e-9, name
