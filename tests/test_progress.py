from gmsop.utils import progress


def test_a_log_gets_lines_and_a_silent_call_nothing(capfd, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    for show in (True, False):
        with progress.progress_bar(show) as bar:
            task = bar.add_task("packing", total=4)
            bar.advance(task, 1)
            bar.advance(task, 3)
        lines = capfd.readouterr().err.splitlines()
        assert [line.split(",")[0] for line in lines] == (["packing 25 %", "packing 100 %"] if show else [])


def test_lines_are_half_a_minute_apart(capfd):
    with progress.progress_bar(True) as bar:
        task = bar.add_task("packing", total=1000)
        for _ in range(1000):
            bar.advance(task)
    assert capfd.readouterr().err == ""
