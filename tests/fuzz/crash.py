"""Kill training and preparing before every call that changes a file, and see that the next run ends as if nothing had.

    python tests/fuzz/crash.py [--every 1] [--first 0] [--only SCENE]

A scene is run once as it is, then once for each of its calls that make, rename, link or remove something in its folder;
a kill before one call is a kill after the one before. Then the user's next command is run, and what lies in the folder
is compared with what lies there without a kill. Prints a table; exits with 1 if there was a difference.
"""

import argparse
import contextlib
import io
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

import gmsop.training.run  # so that no fork imports it again
from gmsop.cli import main as gmsop
from gmsop.data import PackedWriter
from gmsop.runs.metrics import read_metrics

CHANGES = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.symlink", "os.chmod"}
MAKES = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_RDWR


class Scene(NamedTuple):
    """What is run in an empty folder, what the user runs after a kill, and what is compared at the end."""

    begin: Callable[[Path], None]
    run: Callable[[Path], int]
    again: Callable[[Path], int]
    state: Callable[[Path], Any]


def is_change(event: str, arguments: tuple[Any, ...], folder: str) -> bool:
    """Return whether an audited call changes something in the folder."""
    if event not in CHANGES or not isinstance(arguments[0], str | bytes | os.PathLike):
        return False
    if event == "open" and not (arguments[2] & MAKES or set(arguments[1] or "") & set("wax+")):
        return False
    return os.fsdecode(arguments[0]).startswith(folder)


def in_child(work: Callable[[Path], int], folder: Path, stop: int = -1) -> tuple[int, str]:
    """Run work in a forked process that kills itself before change number `stop`; return its end and what it said."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        count = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event in CHANGES and is_change(event, arguments, str(folder)):
                if count == stop:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1

        sys.addaudithook(hook)
        words = io.StringIO()
        with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
            try:
                status = work(folder)
            except BaseException:
                words.write(traceback.format_exc())
                status = 99
        os.write(write, f"{count}\n{words.getvalue()[-2000:]}".encode(errors="replace")[:60_000])
        os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


# Training.
TRAIN = (
    "train",
    "--model",
    "gap_tiny",
    "--epochs",
    "[2]",
    "--batch_size",
    "4",
    "--checkpoint_every",
    "1",
    "--normalize",
    "mean_std",
)


def make_set(folder: Path) -> None:
    with PackedWriter(folder / "set", 64, {"train": 8, "val": 4}, ["a", "b"], "made", "box") as writer:
        for i in range(12):
            writer.add(np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8), i % 2)


def train(folder: Path) -> int:
    return gmsop([*TRAIN, "--data", str(folder / "set"), "--out", str(folder / "run")])


def train_again(folder: Path) -> int:
    """Resume if there is a run; else give the first command again. A run that is complete says so."""
    if not (folder / "run" / "recipe.yaml").exists():
        return train(folder)
    words = io.StringIO()
    with contextlib.redirect_stderr(words):
        status = gmsop(["train", "--resume", str(folder / "run")])
    return 0 if "the run is complete" in words.getvalue() else status


def trained(folder: Path) -> Any:
    run = folder / "run"
    names = {p.name.split(".")[0] if p.name.startswith("events.") else p.name for p in run.iterdir()}
    weights = {key: value.tobytes() for key, value in load_file(run / "model.safetensors").items()}
    return names, read_metrics(run / "metrics.csv"), weights, hidden(folder)


# Preparing.
def make_photos(folder: Path) -> None:
    for split, each in (("train", 3), ("val", 2)):
        for label in "ab":
            for i in range(each):
                path = folder / "photos" / split / label / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng([i, ord(label), each]).integers(0, 256, (9, 9, 3), np.uint8)
                Image.fromarray(pixels).save(path)


def prepare(folder: Path, *more: str) -> int:
    return gmsop(
        [
            "prepare",
            "folder",
            "--source",
            str(folder / "photos"),
            "--out",
            str(folder / "set"),
            "--size",
            "8",
            "--workers",
            "1",
            *more,
        ]
    )


def prepare_again(folder: Path) -> int:
    words = io.StringIO()
    with contextlib.redirect_stderr(words):
        status = prepare(folder)
    return 0 if "already exists" in words.getvalue() else status


def old_and_new(folder: Path) -> None:
    make_photos(folder)
    make_set(folder)


def overwrite(folder: Path) -> int:
    return prepare(folder, "--overwrite")


def prepared(folder: Path) -> Any:
    content = {p.name: p.read_bytes() for p in (folder / "set").iterdir() if p.name != "meta.json"}
    return content, hidden(folder)


def hidden(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob(".*"))


SCENES = {
    "train": Scene(make_set, train, train_again, trained),
    "prepare": Scene(make_photos, prepare, prepare_again, prepared),
    "prepare --overwrite": Scene(old_and_new, overwrite, overwrite, prepared),
}


def crash(scene: Scene, folder: Path, first: int, every: int) -> tuple[int, int, list[str]]:
    """Return the number of a scene's changes, how many were tried, and in words where the end was another."""
    honest = folder / "honest"
    honest.mkdir()
    scene.begin(honest)
    status, said = in_child(scene.run, honest)
    assert status == 0, said
    expected, changes = scene.state(honest), int(said.splitlines()[0])
    wrong, tried = [], range(first, changes, every)
    for stop in tried:
        place = folder / "case"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        scene.begin(place)
        status, said = in_child(scene.run, place, stop)
        if status != -signal.SIGKILL:
            wrong.append(f"change {stop}: not killed, but ended with {status}")
            continue
        status, said = in_child(scene.again, place)
        try:
            if status != 0:
                wrong.append(f"change {stop}: the next run ended with {status}: {said}")
            elif (found := scene.state(place)) != expected:
                parts = [number for number, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b]
                wrong.append(f"change {stop}: another end, in parts {parts}; left {found[-1]}")
        except Exception as error:
            wrong.append(f"change {stop}: another end: {type(error).__name__}: {error}")
    return changes, len(tried), wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="try every so manieth call")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    faults = tries = 0
    for name, scene in SCENES.items():
        if args.only and args.only != name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            changes, tried, wrong = crash(scene, Path(folder), args.first, args.every)
        tries, faults = tries + tried, faults + len(wrong)
        print(f"{name:20} {changes:4} changes {tried:4} tried {len(wrong):4} faults", flush=True)
        for text in wrong:
            print(f"    {text}")
    print(f"{tries:,} tries, {tries - faults:,} survived")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
