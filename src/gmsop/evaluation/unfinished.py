"""Keep answers for many images as they come, so that a run which was killed goes on where it stopped.

Until all are there, they lie in a hidden file of JSON lines beside the one that is to be written. Its first line says
of what they are. A line that was only half written is cut off when the run goes on.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from gmsop.data.image_sources import FoundImage
from gmsop.data.preprocess import Preprocess
from gmsop.errors import ConfigError, DataError
from gmsop.evaluation.outputs.jsonl import json_line
from gmsop.evaluation.outputs.registry import Fields, OutputForm, Record
from gmsop.models.classifier import PooledClassifier
from gmsop.utils.files import beside, write_error, writing
from gmsop.utils.lock import Lock
from gmsop.utils.text import printable
from gmsop.weights.fingerprint import fingerprint

SYNC_EVERY = 5.0
"""Seconds after which what was written is sent to the disk."""


def made_by(model: PooledClassifier, precision: str, exif_orientation: bool) -> dict[str, Any]:
    """Return what the answers of a model depend on: its weights and head, its classes' names, how images are read."""
    cfg = model.pretrained_cfg
    return {
        "model": fingerprint(model),
        "head": None if model.spec is None else model.spec.to_dict(),
        "class names": list(cfg.get("label_names") or ()),
        "preparation": asdict(replace(Preprocess.of(cfg), exif_orientation=exif_orientation)),
        "precision": precision,
    }


class Unfinished:
    """Holds the answers that are there already.

    Args:
        path: what is to be written.
        of: what the answers are of, such as the model's checksum and the settings.
        resume: go on with what is there.
        overwrite: begin anew, and replace what is there in the end.

    Raises:
        ConfigError: there is such a file, or an unfinished one, and it is not said what to do with it; or what is there
            is of something else.
    """

    def __init__(self, path: Path, of: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
        self.path, self.part = path, beside(path, ".unfinished")
        self.of = json.loads(json.dumps(dict(of)))
        if resume and overwrite:
            raise ConfigError("--resume goes on, --overwrite begins anew: not both")
        if path.exists() and not overwrite and not (resume and self.part.exists()):  # what is there was to be replaced
            hint = "it is complete" if resume else "--overwrite replaces it"
            raise ConfigError(f"{path} is there already: {hint}")
        if path.is_dir():
            raise ConfigError(f"{path} is a folder")
        self.count = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(beside(path, ".lock"), ConfigError(f"{path}: another process is writing it"))
        except OSError as error:
            raise write_error(path, error) from error
        try:
            self._begin(resume, overwrite)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> "Unfinished":
        return self

    def __exit__(self, *_: object) -> None:
        if self.part.exists() and next(self.records(), None) is None:  # nothing that could be gone on with
            self.part.unlink()
        self._lock.release()

    def _begin(self, resume: bool, overwrite: bool) -> None:
        if self.part.exists() and not overwrite:
            if not resume:
                raise ConfigError(
                    f"{self.path} was begun and not finished: --resume goes on with it, --overwrite begins anew"
                )
            self._go_on()
        else:
            try:
                self.part.write_text(json_line({"of": self.of}), encoding="utf-8")
            except OSError as error:
                raise write_error(self.path, error) from error

    def _go_on(self) -> None:
        whole = 0
        with self.part.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                self.count += 1
        try:
            with self.part.open("rb") as file:
                there = json.loads(file.readline())["of"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self.part}: damaged; --overwrite begins anew") from error
        if there != self.of:
            changed = ", ".join(key for key in {**there, **self.of} if there.get(key) != self.of.get(key))
            raise ConfigError(f"{self.path} was begun with another {changed} (--overwrite begins anew)")
        self.count -= 1
        os.truncate(self.part, whole)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the records that are there, in their order."""
        with self.part.open(encoding="utf-8") as file:
            file.readline()
            for line in file:
                yield json.loads(line)

    def rest(self, images: Iterable[FoundImage]) -> Iterator[FoundImage]:
        """Pass over the images of which the answers are there, and yield the others.

        Raises:
            DataError: the images are others, or in another order, than when it was begun.
        """
        left = iter(images)
        for number, record in enumerate(self.records(), 1):
            image = next(left, None)
            if image is None or image.name != record["image"]:
                now = "no more images" if image is None else printable(image.name)
                raise DataError(
                    f"{self.path}: image {number} was {printable(record['image'])} when it was begun, and is {now} "
                    "now: --overwrite begins anew"
                )
        yield from left

    def cut(self, good: int) -> None:
        """Keep the records up to the first `good` without an error: of what follows, something else was lost."""
        whole, self.count = 0, 0
        with self.part.open("rb") as file:
            whole += len(file.readline())
            for line in file:
                good -= "error" not in json.loads(line)
                if good < 0:
                    break
                whole += len(line)
                self.count += 1
        os.truncate(self.part, whole)

    @contextmanager
    def writing(self, first: IO[bytes] | None = None) -> Iterator["Appender"]:
        """Yield what appends records.

        Args:
            first: a file that must be on the disk before the records are.

        Raises:
            WriteError: no space, no permission. What was written before is kept.
        """
        try:
            with self.part.open("a", encoding="utf-8") as file:
                append = Appender(file, first)
                yield append
                append.sync()
        except OSError as error:
            raise write_error(self.path, error) from error

    def finish(self, form: OutputForm, fields: Fields) -> None:
        """Write the file in its form, whole or not at all, and remove the unfinished one.

        Raises:
            WriteError: no space, no permission.
        """
        with writing(self.path) as temporary:
            form.write(self.records(), fields, temporary)
        self.part.unlink(missing_ok=True)


class Appender:
    """Appends records to a file."""

    def __init__(self, file: IO[str], first: IO[bytes] | None = None) -> None:
        self.file, self.first, self._synced = file, first, time.monotonic()

    def __call__(self, records: Iterable[Record]) -> None:
        """Append records; now and then see to it that they are on the disk."""
        self.file.writelines(map(json_line, records))
        self.file.flush()
        if time.monotonic() - self._synced > SYNC_EVERY:
            self.sync()

    def sync(self) -> None:
        """See to it that all is on the disk."""
        for file in (self.first, self.file):
            if file is not None:
                file.flush()
                os.fsync(file.fileno())
        self._synced = time.monotonic()
