"""A folder of images, one sub-folder per class, to a packed set."""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.progress import track

from gmsop.data.images import EXTENSIONS, decode_rgb
from gmsop.data.packed import SPLITS, PackedWriter
from gmsop.errors import ConfigError, DataError


class Entry(NamedTuple):
    """One image still to be read."""

    name: str
    read: Callable[[], bytes]
    label: int


def pack_folder(
    source: str | Path,
    path: str | Path,
    image_size: int = 64,
    filter_name: str = "box",
    val_fraction: float = 0.2,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = False,
) -> None:
    """Pack `source/train/CLASS/*` and `source/val/CLASS/*`, or `source/CLASS/*`, into a packed set at `path`.

    Labels follow the sorted class names.

    Args:
        source: the folder of images.
        path: the packed set to make; appears only when complete.
        image_size: S; images are resized to S x S, their aspect ratio ignored.
        filter_name: box, bilinear, bicubic or lanczos.
        val_fraction: where `source` has no train and val of its own: the share of each class that goes to val, drawn
            by `seed`.
        overwrite: replace a packed set at `path`.
        progress: show a progress bar.

    Raises:
        DataError: no images; one that cannot be decoded, named; a class in val that is not in train; `path` exists.
        WriteError: no space, no permission.
    """
    source = Path(source)
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"val_fraction must be at least 0 and below 1, got {val_fraction}")
    files = _split_files(source) if (source / "train").is_dir() else _draw_split(source, val_fraction, seed)
    names = sorted(files["train"])
    if unknown := sorted(set(files["val"]) - set(names)):
        raise DataError(f"{source}: classes in val that are not in train: {', '.join(unknown)}")
    entries = {
        split: [
            Entry(str(f), f.read_bytes, names.index(name)) for name in sorted(files[split]) for f in files[split][name]
        ]
        for split in SPLITS
    }
    if entries["val"] and not entries["train"]:
        raise DataError(f"{source}: every image would go to val, none is left to train on; lower val_fraction")
    if not entries["train"]:
        raise DataError(f"{source}: no images. Expected CLASS/*.jpg (or .png, ...), or train/CLASS/* and val/CLASS/*")
    pack_entries(entries, path, image_size, names, str(source), filter_name, overwrite, progress)


def pack_entries(
    entries: Mapping[str, Sequence[Entry]],
    path: str | Path,
    image_size: int,
    class_names: Sequence[str],
    source: str,
    filter_name: str,
    overwrite: bool = False,
    progress: bool = False,
) -> None:
    """Decode, resize and write `entries` of each split; see `PackedWriter`."""
    counts = {split: len(entries[split]) for split in SPLITS}
    everything = [entry for split in SPLITS for entry in entries[split]]
    with PackedWriter(path, image_size, counts, class_names, source, filter_name, overwrite) as writer:
        for entry in track(everything, "packing", disable=not progress):
            try:
                image = decode_rgb(entry.read(), image_size, filter_name)
            except DataError as error:
                raise DataError(f"{entry.name}: {error}") from error
            except OSError as error:
                raise DataError(f"{entry.name}: {error.strerror or error}") from error
            writer.add(image, entry.label)


Files = dict[str, list[Path]]


def _classes(folder: Path) -> Files:
    """Class name to its image files, sorted; empty classes left out."""
    found: Files = {}
    for child in sorted(folder.iterdir()) if folder.is_dir() else []:
        if child.is_dir():
            files = sorted(
                Path(folder, name)
                for folder, _, names in os.walk(child, onerror=_refuse, followlinks=False)
                for name in names
                if Path(name).suffix.lower() in EXTENSIONS
            )
            if files:
                found[child.name] = files
    return found


def _refuse(error: OSError) -> None:
    """A folder that cannot be read is an error: without it the labels of all later classes would shift."""
    raise DataError(f"{error.filename}: {error.strerror}") from error


def _split_files(source: Path) -> dict[str, Files]:
    return {split: _classes(source / split) for split in SPLITS}


def _draw_split(source: Path, val_fraction: float, seed: int) -> dict[str, Files]:
    draw = random.Random(seed)
    out: dict[str, Files] = {"train": {}, "val": {}}
    for name, files in _classes(source).items():
        held_out = set(draw.sample(files, round(len(files) * val_fraction)))
        out["train"][name] = [f for f in files if f not in held_out]
        out["val"][name] = [f for f in files if f in held_out]
    return out
