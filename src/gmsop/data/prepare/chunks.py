"""Pack image files into a set in chunks: in many processes, on many machines, with nothing done twice after a kill.

The list of files is cut into chunks of 512. Each chunk is decoded and written, whole or not at all, to `.NAME.parts`
beside the set; when all chunks are there, they are joined. A later run on the same list takes the chunks whose source
files have not changed since, by size and time.
"""

import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmsop.data.images import FILTERS, decode_rgb, file_content
from gmsop.data.packed import read_meta
from gmsop.data.prepare.image_list import ImageFile, ImageList
from gmsop.data.prepare.options import PackOptions
from gmsop.data.reading_processes import START, follow_parent
from gmsop.data.writer import PackedWriter, require_writable_set
from gmsop.errors import ConfigError, DataError
from gmsop.utils.files import beside, clear_unfinished, require_space, write_error, writing
from gmsop.utils.progress import progress_bar

CHUNK = 512
FEW = CHUNK if START == "fork" else 16 * CHUNK
"""Up to so many images are decoded in this process: starting others would take longer."""


class UnreadableImage(NamedTuple):
    """Names an image that could not be read, and the reason."""

    path: Path
    reason: str


def pack_files(
    files: Mapping[str, Iterable[tuple[str | Path, int]]],
    path: str | Path,
    image_size: int,
    class_names: Sequence[str],
    source: str,
    filter_name: str,
    options: PackOptions | None = None,
    extra: Mapping[str, Any] | None = None,
    exif_orientation: bool = False,
) -> list[UnreadableImage]:
    """Decode, resize and pack the files of each split; return the images that were skipped.

    Args:
        exif_orientation: turn images as their EXIF data says. The published sets were made without.

    Raises:
        ConfigError: there is no such filter, or the size is below 1.
        DataError: images cannot be read; a set is there already; chunks of another list are there.
        WriteError: there is no space or no permission.
    """
    options = options or PackOptions()
    path = Path(path)
    if filter_name not in FILTERS:
        raise ConfigError(f"unknown filter {filter_name!r}; there are {', '.join(FILTERS)}")
    if image_size < 1:
        raise ConfigError(f"the image size must be at least 1, got {image_size}")
    folder = beside(path, ".parts")
    for place in (folder, _gone(folder)):
        _require_own(place)
    shutil.rmtree(_gone(folder), ignore_errors=True)  # a run killed while it tidied up leaves it
    _discard_finished(path, folder)
    require_writable_set(path, options.overwrite)
    job = _Job(*_listed(files, options.progress), image_size, filter_name, exif_orientation, folder)
    job.prepare(options.overwrite, alone=options.share is None)
    mine = [n for n in range(job.chunks) if not options.share or n % options.share[1] == options.share[0] - 1]
    with progress_bar(options.progress) as bar:
        missing = [n for n in bar.track(mine, description="looking at what is done") if not job.is_whole(n)]
    joined = 0 if options.share else len(job.files)
    require_space(path.parent, (len(missing) * CHUNK + joined) * image_size**2 * 3)
    bad: list[UnreadableImage] = []
    # The processes start before the bar, because the bar starts a thread, and a fork should not meet threads.
    with _decoding(job, missing, options) as done, progress_bar(options.progress) as bar:
        left, total = sum(map(job.size, missing)), sum(map(job.size, mine))
        task = bar.add_task("decoding", total=total, completed=total - left)
        for n, failures in done:
            bad += failures
            bar.advance(task, job.size(n))
    if options.on_error == "stop" and not bad:
        bad = [failure for n in mine for failure in job.failures(n).values()]  # an earlier run skipped these
    if bad and options.on_error == "stop":
        if not any(job.file(n).exists() for n in range(job.chunks)):
            shutil.rmtree(job.folder, ignore_errors=True)
        shown = "\n".join(f"  {b.path}: {b.reason}" for b in bad[:20])
        more = f"\n  and {len(bad) - 20} more" if len(bad) > 20 else ""
        raise DataError(
            f"{len(bad)} of {len(job.files)} images cannot be read:\n{shown}{more}\nMend them and run again (what "
            f"is decoded is kept, if no image is added or removed), or skip them with --on_error skip"
        )
    if options.share:
        return bad
    return _join(job, path, class_names, source, options, dict(extra or {}))


def _listed(files: Mapping[str, Iterable[tuple[str | Path, int]]], progress: bool) -> tuple[ImageList, int]:
    """Return the images of train followed by those of val, and the index where val begins."""
    images, border = ImageList(), 0
    with progress_bar(progress) as bar:
        images.extend(bar.track(files.get("train", ()), description="listing train"))
        border = len(images)
        images.extend(bar.track(files.get("val", ()), description="listing val"))
    return images, border


_Done = tuple[int, list[UnreadableImage]]
"""A chunk's number, and the images in it that could not be read."""


@dataclass
class _Job:
    files: ImageList  # train's files come first, then val's
    border: int  # val begins at this index
    image_size: int
    filter_name: str
    exif_orientation: bool
    folder: Path

    @property
    def chunks(self) -> int:
        return -(-len(self.files) // CHUNK)

    @cached_property
    def mark(self) -> str:
        """Identify the job: chunks that hold another mark belong to another job."""
        turned = " upright" if self.exif_orientation else ""
        return f"{self.image_size} {self.filter_name}{turned} {self.files.digest()}"

    def chunk(self, n: int) -> list[ImageFile]:
        return self.files[n * CHUNK : (n + 1) * CHUNK]

    def size(self, n: int) -> int:
        return len(self.chunk(n))

    def file(self, n: int) -> Path:
        return self.folder / f"{n:06d}.npz"

    def is_whole(self, n: int) -> bool:
        """Return True if the chunk exists, its source files are unchanged (size, time) and no image in it failed.

        Images that failed are tried again.
        """
        if not self.file(n).exists():
            return False
        try:
            versions = self.read(n, "versions")
            return np.array_equal(versions, [_version(file.path) for file in self.chunk(n)]) and not self.failures(n)
        except DataError:
            return False

    def failures(self, n: int) -> dict[int, UnreadableImage]:
        """Return the chunk's images that could not be read, by their number in the list."""
        bad = {n * CHUNK + int(i): reason for i, reason in json.loads(str(self.read(n, "bad"))).items()}
        return {i: UnreadableImage(self.files[i].path, reason) for i, reason in bad.items()}

    def read(self, n: int, name: str) -> NDArray[Any]:
        """Return an array of the chunk.

        Raises:
            DataError: the chunk is gone or damaged, or another job has put its own there.
        """
        file = self.file(n)
        try:
            with np.load(file) as content:
                mark, found = str(content["job"]), np.asarray(content[name])
        except FileNotFoundError as error:
            raise DataError(f"{file}: gone; is another job writing the same set?") from error
        except MemoryError:
            raise
        except Exception as error:  # a changed byte may raise almost anything
            file.unlink(missing_ok=True)
            raise DataError(f"{file}: damaged ({error}); run again to decode its images again") from error
        if mark != self.mark:
            raise DataError(f"{file}: of another list of images, size or filter; is another job writing the same set?")
        return found

    def prepare(self, overwrite: bool, alone: bool) -> None:
        """Make the folder of chunks.

        Chunks of another list are another job's work. They are removed only with `overwrite`, and only if this job is
        `alone`, not one share of many.

        Raises:
            DataError: chunks of another list are there and stay.
            WriteError: there is no space or no permission.
        """
        note = self.folder / "job"
        try:
            mine = note.exists() and note.read_text() == self.mark
            if not mine and any(self.folder.glob("*.npz")):
                if not (overwrite and alone):
                    raise DataError(
                        f"{self.folder} holds chunks of another list of images, size or filter: is another job writing "
                        f"the same set? If not, remove that folder{', or pass --overwrite' if alone else ''}"
                    )
                _discard(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            if alone:
                clear_unfinished(self.folder)
            with writing(note) as temporary:
                temporary.write_text(self.mark)
        except OSError as error:
            raise write_error(self.folder, error) from error


@contextmanager
def _decoding(job: _Job, missing: list[int], options: PackOptions) -> Iterator[Iterator[_Done]]:
    """Decode the missing chunks, in processes if it pays, and yield each when it is done."""

    stop = options.on_error == "stop"

    def arguments(n: int) -> tuple[list[ImageFile], Path, int, str, bool, str, bool]:
        return job.chunk(n), job.file(n), job.image_size, job.filter_name, job.exif_orientation, job.mark, stop

    def results() -> Iterator[_Done]:
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
                running.update({pool.submit(_decode_chunk, *arguments(n)): n for n in islice(later, 1)})

    workers = min(options.workers or (os.cpu_count() or 1), max(1, len(missing)))
    if workers == 1 or sum(map(job.size, missing)) <= FEW:
        yield ((n, _decode_chunk(*arguments(n))) for n in missing)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context(START), initializer=follow_parent) as pool:
        later = iter(missing)  # submitted a few at a time, because all paths at once would take much memory
        try:
            running = {pool.submit(_decode_chunk, *arguments(n)): n for n in islice(later, 2 * workers)}
            yield results()
        except BrokenProcessPool as error:
            raise DataError("a process died (out of memory?). Run again to go on, with fewer workers") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _decode_chunk(
    files: list[ImageFile],
    target: Path,
    image_size: int,
    filter_name: str,
    exif_orientation: bool,
    mark: str,
    stop: bool,
) -> list[UnreadableImage]:
    images = np.empty((len(files), image_size, image_size, 3), np.uint8)
    bad: dict[int, str] = {}
    versions = []
    for i, file in enumerate(files):
        versions.append(_version(file.path))
        try:
            images[i] = decode_rgb(file_content(file.path), image_size, filter_name, exif_orientation)
        except OSError as error:
            bad[i] = error.strerror or str(error)
        except (DataError, ValueError) as error:  # ValueError: no file can have such a path
            bad[i] = str(error)
    if not (bad and stop):
        with writing(target) as temporary, temporary.open("wb") as stream:
            np.savez(stream, images=images, bad=json.dumps(bad), versions=np.array(versions), job=mark)
    return [UnreadableImage(files[i].path, reason) for i, reason in bad.items()]


def _join(
    job: _Job,
    path: Path,
    class_names: Sequence[str],
    source: str,
    options: PackOptions,
    extra: dict[str, Any],
) -> list[UnreadableImage]:
    lost = {i: failure for n in range(job.chunks) for i, failure in job.failures(n).items()}
    lost_train = sum(i < job.border for i in lost)
    counts = {
        "train": job.border - lost_train,
        "val": len(job.files) - job.border - (len(lost) - lost_train),
    }
    if job.border and not counts["train"]:
        raise DataError(f"none of the {job.border} images to train on can be read")
    if lost:
        extra["skipped"] = sorted({str(failure.path) for failure in lost.values()})
    extra["job"] = job.mark
    writer = PackedWriter(
        path, job.image_size, counts, class_names, source, job.filter_name, options.overwrite, extra, options.progress
    )
    root = job.files.common_folder()
    with writer, progress_bar(options.progress) as bar:
        task = bar.add_task("joining", total=len(job.files))
        for n in range(job.chunks):
            chunk, images = job.chunk(n), job.read(n, "images")
            numbers = np.arange(len(chunk)) + n * CHUNK
            good = np.array([i not in lost for i in numbers], bool)
            labels = np.array([file.label for file in chunk])
            names = np.array([os.path.relpath(file.path, root) for file in chunk], object)
            for split, wanted in (("train", good & (numbers < job.border)), ("val", good & (numbers >= job.border))):
                if wanted.any():
                    writer.add_batch(images[wanted], labels[wanted], split, names[wanted].tolist())
            bar.advance(task, len(chunk))
    with suppress(OSError):
        _discard(job.folder)
    return list(lost.values())


def _discard_finished(path: Path, folder: Path) -> None:
    """Remove the chunks of a job that was killed after its set had its name."""
    try:
        if (folder / "job").read_text() == read_meta(path).get("job"):
            _discard(folder)
    except (OSError, DataError):
        return


def _require_own(folder: Path) -> None:
    """Refuse a folder of chunks' name that holds something else.

    Raises:
        DataError: it does, or is a link.
    """
    if folder.is_symlink():
        raise DataError(f"{folder}: a link, where chunks of images would be written; remove it")
    for child in folder.iterdir() if folder.is_dir() else ():
        if not child.is_file() or not re.fullmatch(r"\d+\.npz|job|\.gmsop-\w+\.part", child.name):
            raise DataError(f"{folder}: holds {child.name}, which is no chunk of images; remove it, or rename it")


def _discard(folder: Path) -> None:
    """Remove a folder of chunks. It is renamed first, because half of one would look like a job to go on with."""
    folder.rename(_gone(folder))
    shutil.rmtree(_gone(folder), ignore_errors=True)


def _gone(folder: Path) -> Path:
    return beside(folder.with_name(folder.name.removeprefix(".")), "-done")


def _version(file: Path) -> tuple[int, int]:
    """Return size and time of a file, or (-1, -1) if they cannot be read."""
    try:
        found = file.stat()
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns
