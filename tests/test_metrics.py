import pytest

from gmsop.errors import DataError
from gmsop.runs.metrics import read_metrics
from gmsop.training.epoch_rows import EpochRows


def test_rows_are_added_and_a_resumed_run_drops_later_ones(tmp_path):
    path = tmp_path / "metrics.csv"
    rows = EpochRows(path)
    for epoch in range(3):
        rows.write(epoch, {"a": epoch / 3, "b": 1e-300})
    rows.write(1, {"a": 7.0, "c": float("inf")})
    assert read_metrics(path) == {0: {"a": 0.0, "b": 1e-300}, 1: {"a": 7.0, "c": float("inf")}}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epoch,a\n0,1\n2,1\n",
        "epoch,a\n1,1\n0,1\n",
        "epoch,a\n0,1\n0,2\n",
        "epoch,a\n0\n",
        "epoch,a\n0,1,2\n",
        "epoch,a\n0,1\n1,0.",
        "epoch,a\n0,x\n",
        "epoch,a,a\n0,1,2\n",
        "a\n1\n",
        "epoch,a\n0,1\n1,2\n\n",
        "epoch,a\n0,\0\n",
    ],
)
def test_every_row_is_checked(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(DataError, match="damaged"):
        read_metrics(tmp_path / "metrics.csv")
