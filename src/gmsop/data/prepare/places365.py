"""Pack Places-365 standard, laid out as released or as torchvision lays it out, into a set."""

from collections.abc import Iterator
from pathlib import Path

from gmsop.data.prepare.chunks import UnreadableImage, pack_files
from gmsop.data.prepare.options import PackOptions
from gmsop.data.prepare.registry import register_source
from gmsop.errors import ConfigError, DataError
from gmsop.utils.text import read_lines

FOLDERS = {
    "256": (("data_256", "data_256_standard"), ("val_256",)),
    "large": (("data_large", "data_large_standard"), ("val_large",)),
}
"""Folders of the training and the validation images of each version."""
LISTS = {"train": "places365_train_standard.txt", "val": "places365_val.txt"}
CATEGORIES = "categories_places365.txt"


@register_source("places365", "Places-365 standard with its file lists")
def pack_places365(
    source: str | Path,
    path: str | Path,
    size: int = 100,
    filter: str = "bicubic",
    version: str = "auto",
    options: PackOptions | None = None,
) -> list[UnreadableImage]:
    """Pack the images of the official lists, resized to S x S, their aspect ratio ignored.

    The authors resized with MATLAB's bicubic `imresize`. Pillow's filter differs in two ways: at the borders, MATLAB
    mirrors the image and Pillow leaves out what is not there; and Pillow rounds after each axis. This was measured on
    nine photographs (the samples of scikit-image, scikit-learn and Matplotlib), resized from 256 x 256 to 100 x 100.
    Inside, 1 of 2,000 values differs by more than 1 grey level, by 5 at most. In the two outermost rows and columns, 1
    of 17 differs by more than 1, by 13 at most. Hard edges double these differences.

    Args:
        source: the folder that holds `data_256` or `data_large` (`data_256_standard`, ... in torchvision's layout) and
            `val_256` or `val_large`. The three lists lie there or in a folder below.
        version: "256", "large", or "auto": the one that is there.

    Returns:
        The images that were skipped.

    Raises:
        DataError: a list or folder is missing; both versions are there; a list has a line that is not valid; images
            cannot be read.
        WriteError: there is no space or no permission.
    """
    source = Path(source)
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    names = _categories(_find_list(source, CATEGORIES))
    folders = _folders(source, version)
    files = {
        split: _listed(_find_list(source, listing), folders[split], len(names)) for split, listing in LISTS.items()
    }
    return pack_files(files, path, size, names, f"Places-365 standard, {source}", filter, options)


def _folders(source: Path, version: str) -> dict[str, Path]:
    if version not in (*FOLDERS, "auto"):
        raise ConfigError(f"version is '256', 'large' or 'auto', got {version!r}")
    found: dict[str, dict[str, Path]] = {}
    for name, (train, val) in FOLDERS.items():
        there = [next((source / f for f in choices if (source / f).is_dir()), None) for choices in (train, val)]
        if there[0] and there[1]:
            found[name] = {"train": there[0], "val": there[1]}
    if version != "auto":
        found = {name: folders for name, folders in found.items() if name == version}
    if not found:
        raise DataError(
            f"{source}: expected data_256 and val_256, or data_large and val_large, of the official archives"
        )
    if len(found) > 1:
        raise DataError(f"{source} holds the 256-pixel and the full-size version; choose one with --version")
    return next(iter(found.values()))


def _find_list(source: Path, name: str) -> Path:
    for file in (source / name, *sorted(source.glob(f"*/{name}"))):
        if file.is_file():
            return file
    raise DataError(f"{source}: {name} is missing; it comes with the official file lists (filelist_places365-standard)")


def _categories(file: Path) -> list[str]:
    """Read the category names, shortened from `/a/airfield` to `airfield`, in the order of their numbers."""
    numbers = {}
    for name, number in _lines(file):
        numbers[number] = name.lstrip("/").split("/", 1)[-1]
    if sorted(numbers) != list(range(len(numbers))):
        raise DataError(f"{file}: the categories are not numbered 0 to {len(numbers) - 1}")
    return [numbers[i] for i in range(len(numbers))]


def _listed(listing: Path, folder: Path, classes: int) -> Iterator[tuple[str, int]]:
    for i, (name, label) in enumerate(_lines(listing), 1):
        if label >= classes:
            raise DataError(f"{listing}, line {i}: category {label}, there are {classes}")
        yield f"{folder}/{name.lstrip('/')}", label


def _lines(file: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and the number of every line `name number`."""
    i = 0
    for i, line in enumerate(read_lines(file), 1):
        name, _, number = line.strip().rpartition(" ")
        if not name or not number.isdecimal():
            raise DataError(f"{file}, line {i}: expected a name and a number, found {line[:60]!r}")
        yield name, int(number)
    if i == 0:
        raise DataError(f"{file}: empty")
