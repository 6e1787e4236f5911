import json

import pytest
import torch

from gmsop.cli import main
from gmsop.speed import timing
from gmsop.speed.timing import WrongResultError

CPU = torch.device("cpu")


@pytest.mark.slow
def test_every_table_in_small(tmp_path, capfd):
    file = tmp_path / "figures.json"
    tables = ["operator", "head", "step", "inference"]
    assert main(["benchmark", *tables, "--small=true", "--device=cpu", f"--json={file}"]) == 0
    figures = json.loads(file.read_text())
    assert list(figures["tables"]) == tables
    for rows in figures["tables"].values():
        assert all(row["milliseconds"] > 0 and row["error"] < 1e-4 for row in rows)
    assert "gmsop" in capfd.readouterr().out


@pytest.mark.parametrize("error", [1e-2, float("nan")])
def test_what_is_wrong_is_not_timed(error):
    def never() -> None:
        raise AssertionError("was run")

    with pytest.raises(WrongResultError, match="fast is off"):
        timing.compare("case", {"slow": never, "fast": never}, {"fast": error}, {"fast": 1e-4}, CPU)


def test_ratio_is_of_paired_rounds(monkeypatch):
    clock = iter([1.0, 1.0, 1.0, 1.0, *[4.0, 2.0, 8.0, 8.0, 12.0, 3.0]])  # two warm-up rounds, then drifting ones
    monkeypatch.setattr(timing, "seconds", lambda run, device: next(clock))
    rows = timing.compare("case", {"a": int, "b": int}, {}, {}, CPU, rounds=3)
    assert [row.ratio for row in rows] == [1.0, 2.0]  # of the medians, 8 and 3, it would be 2.7


def test_peak_memory_counts_what_is_held_at_once():
    def run() -> None:
        for _ in range(3):
            torch.empty(2**20)
        a, b = torch.empty(2**20), torch.empty(2**20)
        del a, b

    assert timing.peak_memory(run, CPU) == pytest.approx(8, abs=0.1)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["operater"], "operator"),
        (["--device=tpu"], "--device tpu"),
        (["head", "--device=meta"], "only cpu and cuda"),
        (["inference", "--device=cpu", "--models=nosuch*"], "unknown model"),
    ],
)
def test_mistakes(argv, message, capfd):
    assert main(["benchmark", *argv]) == 1
    assert message in capfd.readouterr().err
