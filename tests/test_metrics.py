from gmsop.runs.metrics import log_epoch, read_metrics


def test_rows_are_added_and_a_resumed_run_drops_later_ones(tmp_path):
    path = tmp_path / "metrics.csv"
    for epoch in range(3):
        log_epoch(path, epoch, {"a": epoch / 3, "b": 1e-300})
    log_epoch(path, 1, {"a": 7.0, "c": float("inf")})
    assert read_metrics(path) == {0: {"a": 0.0, "b": 1e-300}, 1: {"a": 7.0, "c": float("inf")}}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]
