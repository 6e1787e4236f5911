"""Pack a folder of images with one sub-folder per class, or a table of files and labels, into a set."""

import random
from collections.abc import Iterator
from pathlib import Path

from gmsop.data.image_files import Files, image_classes, split_folders
from gmsop.data.image_table import is_table, read_table
from gmsop.data.prepare.chunks import UnreadableImage, pack_files
from gmsop.data.prepare.options import PackOptions
from gmsop.data.prepare.registry import register_source
from gmsop.errors import ConfigError, DataError
from gmsop.utils.text import printable


@register_source("folder", "CLASS/*.jpg, or train/CLASS/* and val/CLASS/*, or a CSV of path,label")
def pack_folder(
    source: str | Path,
    path: str | Path,
    size: int = 64,
    filter: str = "box",
    val_fraction: float = 0.2,
    seed: int = 0,
    exif_orientation: bool = True,
    options: PackOptions | None = None,
) -> list[UnreadableImage]:
    """Pack `source/train/CLASS/*` and `source/val/CLASS/*`, or `source/CLASS/*`, or a table, into a set at `path`.

    Labels follow the sorted class names. The folders of the splits may have any of their usual names, see
    `gmsop.data.image_files`; the columns of a table (.csv, .tsv) are those of `gmsop.data.image_table.read_table`.

    Args:
        source: the folder of images, or the table.
        path: the packed set to make; it appears only when it is complete.
        size: S; images are resized to S x S, their aspect ratio ignored.
        filter: box, bilinear, bicubic or lanczos.
        val_fraction: where `source` has no val of its own: the share of each class that goes to val, drawn by `seed`.
        exif_orientation: turn photographs as their EXIF data says, as viewers do.

    Returns:
        The images that were skipped.

    Raises:
        DataError: there are no images; a class has none; images cannot be decoded, which are named; a class in val is
            not in train; a class is spelt in two ways; `path` exists.
        WriteError: there is no space or no permission.
    """
    source = Path(source)
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"val_fraction must be at least 0 and below 1, got {val_fraction}")
    if is_table(source):
        keep = options is not None and options.on_error == "skip"
        files = _listed(source, val_fraction, seed, keep)
    elif source.is_dir():
        train_folder, val_folder = split_folders(source)
        show = options is not None and options.progress
        train = image_classes(train_folder, show)
        val = {} if val_folder is None else image_classes(val_folder, show, may_be_empty=train)
        if val_folder is not None and not val:
            raise DataError(f"{val_folder}: no CLASS/* with images; remove it to have a share of train held out")
        files = {"train": train, "val": val} if val else _draw_split(train, val_fraction, seed)
    else:
        raise DataError(f"{source}: no such folder, nor a .csv or .tsv file")
    names = sorted(files["train"])
    if unknown := sorted(set(files["val"]) - set(names)):
        raise DataError(f"{source}: classes in val that are not in train: {', '.join(map(printable, unknown[:10]))}")
    if any(files["val"].values()) and not any(files["train"].values()):
        raise DataError(f"{source}: every image is in val, none is left to train on")
    if not any(files["train"].values()):
        raise DataError(f"{source}: no images. Expected CLASS/*.jpg (or .png, ...), or train/CLASS/* and val/CLASS/*")
    numbered = {split: _numbered(found, names) for split, found in files.items()}
    return pack_files(numbered, path, size, names, str(source), filter, options, exif_orientation=exif_orientation)


def _numbered(files: Files, names: list[str]) -> Iterator[tuple[str, int]]:
    for i, name in enumerate(names):
        for file in files.get(name, ()):
            yield file, i


def _draw_split(classes: Files, val_fraction: float, seed: int) -> dict[str, Files]:
    draw = random.Random(seed)
    out: dict[str, Files] = {"train": {}, "val": {}}
    for name, files in classes.items():
        held_out = set(draw.sample(files, min(round(len(files) * val_fraction), len(files) - 1)))
        out["train"][name] = [f for f in files if f not in held_out]
        out["val"][name] = [f for f in files if f in held_out]
    return out


def _listed(table: Path, val_fraction: float, seed: int, keep_missing: bool) -> dict[str, Files]:
    out: dict[str, Files] = {"train": {}, "val": {}}
    rows = read_table(table, keep_missing)
    for row in rows:
        out["val" if row.is_test else "train"].setdefault(row.label, []).append(row.file)
    if rows[0].is_test is not None:
        return out
    return _draw_split(dict(sorted(out["train"].items())), val_fraction, seed)
