"""The page: what it says agrees with the run's files, it needs no network, and it fits a desk and a phone."""

import base64
import html
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny import recipe

from gmsop.cli import main
from gmsop.data import PackedDataset, PackedWriter
from gmsop.errors import ConfigError, DataError
from gmsop.report import figures
from gmsop.report.page import write_report
from gmsop.report.samples import favourites
from gmsop.runs.metrics import read_metrics, write_metrics
from gmsop.runs.run_folder import read_run
from gmsop.training.run import train

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def runs(small_set, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    gap = train(recipe(model="gap_tiny", epochs=[1]), small_set, folder / "gap <b>")
    return train(recipe(), small_set, folder / "gm-sop").folder, gap.folder


@pytest.fixture(scope="module")
def pages(runs, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pages")
    write_report(runs[:1], folder / "one.html")
    write_report(runs, folder / "two.html")
    return folder / "one.html", folder / "two.html"


def cells(page: Path, table: str) -> list[list[str]]:
    body = re.search(rf'<table id="{table}">(.*?)</table>', page.read_text(), re.S)[1]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.S)
    return [[html.unescape(c).strip() for c in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S)] for row in rows]


def test_the_table_agrees_with_the_run(runs, pages):
    header, row = cells(pages[0], "results")
    said = dict(zip(header, row, strict=True))
    metrics = read_metrics(runs[0] / "metrics.csv")
    best = min(values["val/top1_error"] for values in metrics.values())
    assert said["top-1 error, %"] == f"{best:.2f}"
    assert said["top-1, last epoch"] == f"{metrics[1]['val/top1_error']:.2f}"
    assert (said["model"], said["val images"], said["parameters"]) == ("gm_sop_4_2_tiny", "40", "118,890")
    low, high = map(float, said["95 % interval"].split(" to "))
    assert low < best < high


def test_published_numbers_stand_beside(tmp_path, small_set, runs):
    folder = tmp_path / "run"
    shutil.copytree(runs[0], folder)
    settings = yaml.safe_load((folder / "recipe.yaml").read_text())
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings | {"model": "gm_gap_16_8_resnet18"}))
    write_report([folder], tmp_path / "page.html")
    text = tmp_path.joinpath("page.html").read_text()
    assert "42.37 / 18.82 (released weights 42.25 / 19.46) on ImageNet 64x64" in text
    assert "40.03 / 17.91 on ImageNet 64x64, twice the images: flips added" in text


def test_skipped_passes_are_counted(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "run")
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    for epoch, skipped in ((0, 2), (1, 1)):
        rows[epoch]["train/skipped_passes"] = skipped
    write_metrics(tmp_path / "run" / "metrics.csv", rows)
    write_report([tmp_path / "run"], tmp_path / "page.html")
    assert "since their loss was not finite: 3</p>" in (tmp_path / "page.html").read_text()


def test_the_git_states_of_project_and_library(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "run")
    file = tmp_path / "run" / "environment.json"
    (start,) = json.loads(file.read_text())
    state = {"commit": "abc", "changed": ["x.py"]}
    for gmsop_git, shown in ((state, 0), (None, 0), (state | {"commit": "def"}, 1)):
        file.write_text(json.dumps([start | {"git": state, "gmsop_git": gmsop_git}]))
        write_report([tmp_path / "run"], tmp_path / "page.html")
        text = (tmp_path / "page.html").read_text()
        assert text.startswith("<!doctype html>")
        assert "<dt>git</dt><dd>abc, with changes in x.py</dd>" in text
        assert text.count("<dt>git, gmsop</dt><dd>def, with changes in x.py</dd>") == shown


def test_several_runs_are_compared(pages):
    assert [row[0] for row in cells(pages[1], "results")[1:]] == ["gm-sop", "gap <b>"]
    assert ["model", "gm_sop_4_2_tiny", "gap_tiny"] in cells(pages[1], "differences")
    assert "gap <b>" not in pages[1].read_text()  # names are text, not markup


def test_the_page_is_whole(pages):
    for page in pages:
        text = page.read_text()
        assert not re.search(r"(src|href)\s*=(?!\"(data:|#))", text)
        assert not re.search(r"<script|<link|@import|url\(", text)
        assert all(word in text for word in ("<dt>git</dt>", "torch ", "batch_size: 30", "hardware"))


def test_the_gate_is_shown(runs, pages):
    text = pages[0].read_text()
    arrays = np.load(runs[0] / "validation.npz")
    assert arrays["gate_weight"].sum() == pytest.approx(40, abs=1e-3)
    assert arrays["confusion"].sum() == 40
    dead = np.flatnonzero(arrays["gate_chosen"].sum(0) == 0)
    said = f"No validation image went to component {', '.join(map(str, dead))}." if len(dead) else "Every component got"
    assert said in text
    assert len(re.findall("data:image/png", text)) >= 6


def test_favourites_are_those_with_the_largest_gates(runs, small_set):
    run = read_run(runs[0])
    found = favourites(run.model, PackedDataset(small_set, "val"), 1000, count=3)
    assert len(found) == 4
    for row in found:
        assert [s.weight for s in row] == sorted((s.weight for s in row), reverse=True)
    everything = favourites(run.model, PackedDataset(small_set, "val"), 1000, count=40)
    assert [len(row) for row in everything] == run.arrays["gate_chosen"].sum(0).tolist()  # of the same, best epoch


def test_without_the_data_the_rest_is_still_there(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs[0], folder)
    (folder / "environment.json").unlink()
    (folder / "timing.csv").unlink()
    write_report([folder], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "does not say what it was trained on" in text
    assert "environment.json is missing or damaged" in text
    whole = (folder / "validation.npz").read_bytes()
    for kept in (0, len(whole) // 2):
        (folder / "validation.npz").write_bytes(whole[:kept])
        write_report([folder], tmp_path / "page.html")
        assert "Worst classes" not in (tmp_path / "page.html").read_text()


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def rewrite(file: Path, **changes: object) -> None:
    arrays = dict(np.load(file)) | changes
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("damage", "lacking"),
    [
        (lambda run: flip(run / "validation.npz"), "Worst classes"),
        (lambda run: (run / "validation.npz").write_bytes((run / "recipe.yaml").read_bytes()), "Worst classes"),
        (lambda run: rewrite(run / "validation.npz", gate_chosen=None), "The gate"),
        (lambda run: rewrite(run / "validation.npz", gate_weight=np.zeros((10, 4))), "Where the classes go"),
        (lambda run: edit(run / "timing.csv", "epoch", "time"), None),
        (lambda run: (run / "environment.json").write_text('[1, {"packages": null}]'), "<dt>versions</dt>"),
        (lambda run: (run / "environment.json").write_text("7"), "<dt>versions</dt>"),
    ],
)
def test_a_damaged_file_costs_its_part_of_the_page(runs, tmp_path, damage, lacking):
    shutil.copytree(runs[0], tmp_path / "run")
    damage(tmp_path / "run")
    write_report([tmp_path / "run"], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "Top-1 error" in text
    assert lacking is None or lacking not in text


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: edit(run / "metrics.csv", "epoch,", "time,"), "damaged .*epoch"),
        (lambda run: edit(run / "metrics.csv", "0,", "0,1,1,"), "damaged"),
        (lambda run: edit(run / "metrics.csv", "val/top5_error", "top5"), r"damaged \(no val/top5_error\)"),
        (lambda run: (run / "recipe.yaml").write_text("{}"), r"damaged \(no model or epochs\)"),
    ],
)
def test_a_damaged_file_that_the_page_cannot_do_without_is_named(runs, tmp_path, damage, words):
    shutil.copytree(runs[0], tmp_path / "run")
    damage(tmp_path / "run")
    with pytest.raises(ConfigError, match=words):
        write_report([tmp_path / "run"], tmp_path / "page.html")


def test_names_that_would_be_formulas_or_hidden(runs, tmp_path):
    paths = [tmp_path / above / name for above in "ab" for name in ("$^$", "_x")]
    for path in paths:
        shutil.copytree(runs[0], path)
    write_report(paths, tmp_path / "page.html")
    assert [row[0] for row in cells(tmp_path / "page.html", "results")[1:]] == ["a/$^$", "a/_x", "b/$^$", "b/_x"]
    drawn = svg(figures.heat_map(np.ones((3, 1)), ["_x", "$5-$10" + 40 * "0", "河流"]))
    for name in ("_x", f"$5-$10{25 * '0'}…", "河流"):  # as letters, which the browser has fonts for
        assert f">{name}</text>" in drawn


def test_each_run_has_a_colour_of_its_own(pages):
    assert 'id="legend"' not in pages[0].read_text()
    text = pages[1].read_text()
    shown = re.findall(r'background: (#\w{6})"></span>(.*?)</li>', text)
    assert [html.unescape(name) for _, name in shown] == ["gm-sop", "gap <b>"]
    errors = svg(re.search(r'src="(data:image/svg[^"]*)" alt="Top-1 error', text)[1])
    assert all(colour in errors for colour, _ in shown)
    assert len(set(figures.colours(20))) == 20


def svg(url: str) -> str:
    return base64.b64decode(url.partition(",")[2]).decode()


def test_a_set_of_other_classes_costs_only_the_samples(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "run")
    with PackedWriter(tmp_path / "other", 16, {"val": 1}, ["a", "b"], "", "box") as writer:
        writer.add(np.zeros((16, 16, 3), np.uint8), 0)
    with pytest.raises(DataError, match="its classes are not those of the run"):
        write_report([tmp_path / "run"], tmp_path / "page.html", tmp_path / "other")
    starts = json.loads((tmp_path / "run" / "environment.json").read_text())
    (tmp_path / "run" / "environment.json").write_text(json.dumps([starts[0] | {"data": str(tmp_path / "other")}]))
    write_report([tmp_path / "run"], tmp_path / "page.html")
    assert "are not those of the run; --data names another set" in (tmp_path / "page.html").read_text()


def test_the_best_epoch_is_the_one_whose_weights_were_kept(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs[0], folder)
    arrays = dict(np.load(folder / "validation.npz"))
    for epoch in (0, 1):
        np.savez(folder / "validation.npz", **(arrays | {"epoch": np.array(epoch)}))
        assert read_run(folder).best_epoch == epoch


def test_what_is_no_run(runs, sample, tmp_path, capsys):
    page = tmp_path / "page.html"
    for path, message in ((tmp_path / "none", "no such folder"), (tmp_path, "not the folder of a run")):
        with pytest.raises(ConfigError, match=message):
            write_report([path], page)
    with pytest.raises(ConfigError, match="named twice"):
        write_report([runs[0], runs[0]], page)
    (tmp_path / "recipe.yaml").write_text("model: gap_tiny\n")
    with pytest.raises(ConfigError, match="has not finished an epoch"):
        write_report([tmp_path], page)
    with pytest.raises(DataError, match="no such folder"):
        write_report(runs[:1], page, data=tmp_path / "none")
    assert not page.exists()
    assert main(["report", str(tmp_path / "none")]) == 1
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(pages, tmp_path, width):
    """Every picture is drawn, and the page is no wider than its frame."""
    measure = (
        "onload = () => { const page = document.querySelector('iframe').contentDocument, pictures = [...page.images];"
        "document.title = [page.documentElement.scrollWidth, page.documentElement.clientWidth, pictures.length,"
        " pictures.filter(picture => !picture.complete || !picture.naturalWidth).length] }"
    )
    frame = tmp_path / "frame.html"
    content = html.escape(pages[1].read_text())
    frame.write_text(f'<iframe width="{width}" height="900" srcdoc="{content}"></iframe><script>{measure}</script>')
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    command = [*words, "--virtual-time-budget=5000", "--dump-dom", frame.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=100).stdout
    wide, room, pictures, broken = map(int, re.search(r"<title>([\d,]+)</title>", dom)[1].split(","))
    assert wide <= room <= width
    assert broken == 0
    assert pictures > 8


def test_the_page_can_be_used_by_keyboard_and_screen_reader(pages):
    for page in pages:
        text = page.read_text()
        ids = re.findall(r'\bid="([^"]+)"', text)
        assert len(ids) == len(set(ids))
        assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
        assert all("scope=" in cell for cell in re.findall(r"<th[ >][^>]*>?", text))
        assert all(re.search(r'alt="[^"]', image) for image in re.findall(r"<img [^>]*>", text))
        assert all("tabindex" in box for box in re.findall(r'<(?:div|figure) class="wide"[^>]*>', text))
        assert text.count("<main>") == text.count("</main>") == 1
        levels = [int(level) for level in re.findall(r"<h(\d)", text)]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        assert "prefers-color-scheme: dark" in text
        assert "@media print" in text


def test_the_page_says_how_to_do_it_again(pages):
    text = html.unescape(pages[0].read_text())
    recipe = base64.b64decode(re.search(r'download="recipe.yaml" href="data:text/yaml;base64,([^"]+)"', text)[1])
    assert yaml.safe_load(recipe)["batch_size"] == 30
    assert re.search(r"gmsop train --recipe recipe.yaml --data \S+ --out \S+-again\ngmsop report ", text)
