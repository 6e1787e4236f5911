"""Pack a folder of images with one sub-folder per class, or a CSV list of files and labels, into a set."""

import csv
import random
from collections.abc import Iterator
from pathlib import Path

from gmsop.data.image_folder import Files, image_classes
from gmsop.data.packed import SPLITS
from gmsop.data.prepare.chunks import UnreadableImage, pack_files
from gmsop.data.prepare.options import PackOptions
from gmsop.data.prepare.registry import register_source
from gmsop.errors import ConfigError, DataError


@register_source("folder", "CLASS/*.jpg, or train/CLASS/* and val/CLASS/*, or a CSV of path,label")
def pack_folder(
    source: str | Path,
    path: str | Path,
    size: int = 64,
    filter: str = "box",
    val_fraction: float = 0.2,
    seed: int = 0,
    options: PackOptions | None = None,
) -> list[UnreadableImage]:
    """Pack `source/train/CLASS/*` and `source/val/CLASS/*`, or `source/CLASS/*`, or a CSV file, into a set at `path`.

    Labels follow the sorted class names. A CSV file has a header with `path` (relative to the CSV file), `label` (a
    class name) and, optionally, `split` (train or val).

    Args:
        source: the folder of images, or the CSV file.
        path: the packed set to make; it appears only when it is complete.
        size: S; images are resized to S x S, their aspect ratio ignored.
        filter: box, bilinear, bicubic or lanczos.
        val_fraction: where `source` has no val of its own: the share of each class that goes to val, drawn by `seed`.

    Returns:
        The images that were skipped.

    Raises:
        DataError: there are no images; a class has none; images cannot be decoded, which are named; a class in val is
            not in train; `path` exists.
        WriteError: there is no space or no permission.
    """
    source = Path(source)
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"val_fraction must be at least 0 and below 1, got {val_fraction}")
    if source.is_file() and source.suffix.lower() == ".csv":
        files = _listed(source, val_fraction, seed)
    elif source.is_dir():
        has_split = (source / "train").is_dir() and any(child.is_dir() for child in (source / "train").iterdir())
        if not has_split and (source / "val").is_dir():
            raise DataError(f"{source}: has a val, but no train/CLASS/*")
        show = options is not None and options.progress
        train = image_classes(source / "train" if has_split else source, strict=True, progress=show)
        val = image_classes(source / "val", strict=True, progress=show) if has_split else {}
        if not val and has_split and (source / "val").is_dir() and any((source / "val").iterdir()):
            raise DataError(f"{source / 'val'}: no CLASS/* with images; remove it to have a share of train held out")
        files = {"train": train, "val": val} if val else _draw_split(train, val_fraction, seed)
    else:
        raise DataError(f"{source}: no such folder, nor a .csv file")
    names = sorted(files["train"])
    if unknown := sorted(set(files["val"]) - set(names)):
        raise DataError(f"{source}: classes in val that are not in train: {', '.join(unknown)}")
    if any(files["val"].values()) and not any(files["train"].values()):
        raise DataError(f"{source}: every image is in val, none is left to train on")
    if not any(files["train"].values()):
        raise DataError(f"{source}: no images. Expected CLASS/*.jpg (or .png, ...), or train/CLASS/* and val/CLASS/*")
    numbered = {split: _numbered(found, names) for split, found in files.items()}
    return pack_files(numbered, path, size, names, str(source), filter, options)


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


def _listed(file: Path, val_fraction: float, seed: int) -> dict[str, Files]:
    out: dict[str, Files] = {"train": {}, "val": {}}
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            if not {"path", "label"} <= set(rows.fieldnames or ()):
                raise DataError(f"{file}: expected a header with path and label, found {rows.fieldnames}")
            has_split = "split" in (rows.fieldnames or ())
            for row in rows:
                split = row["split"] if has_split else "train"
                if not row["path"] or not row["label"] or split not in SPLITS:
                    raise DataError(f"{file}, line {rows.line_num}: needs a path, a label and, if any, train or val")
                out[split].setdefault(row["label"], []).append(str(file.parent / row["path"]))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: not a CSV file ({error})") from error
    return out if has_split else _draw_split(dict(sorted(out["train"].items())), val_fraction, seed)
