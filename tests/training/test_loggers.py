"""Weights & Biases goes on with the run that the run folder was logged to."""

import pytest
from tiny import recipe

from gmsop.training import loggers


@pytest.mark.parametrize(("step", "run"), [(0, None), (7, "l1t6ibph")])
def test_a_resumed_run_goes_on_in_the_same_wandb_run(tmp_path, monkeypatch, step, run):
    written = tmp_path / "wandb"  # as the package leaves it
    (written / "offline-run-20261125_123638-l1t6ibph").mkdir(parents=True)
    (written / "latest-run").symlink_to("offline-run-20261125_123638-l1t6ibph")
    monkeypatch.setattr(loggers, "find_spec", lambda name: object())
    monkeypatch.setattr(loggers, "WandbLogger", lambda **options: options)
    assert loggers.make_loggers(tmp_path, recipe(), "project", step)[1]["id"] == run


def test_a_resumed_run_that_was_not_logged_to_wandb_starts_one(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", lambda name: object())
    monkeypatch.setattr(loggers, "WandbLogger", lambda **options: options)
    assert loggers.make_loggers(tmp_path, recipe(), "project", 7)[1]["id"] is None
