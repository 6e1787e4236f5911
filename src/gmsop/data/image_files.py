"""Find image files in folders: by class, and for training and testing."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gmsop.data.class_names import require_one_spelling
from gmsop.data.images import EXTENSIONS, HEIF, HEIF_HINT
from gmsop.errors import DataError, DataWarning
from gmsop.utils.progress import progress_bar
from gmsop.utils.text import printable
from gmsop.utils.walk import walk

TRAIN_FOLDERS = ("train", "training")
VAL_FOLDERS = ("val", "valid", "validation", "eval", "evaluation", "dev")
TEST_FOLDERS = ("test", "testing")
"""Names of the folders of a split, in any case: those that timm knows, and `dev` and `test`."""

IN_NO_CLASS = "images that lie in no class's folder"

Files = dict[str, list[str]]
"""Paths by class name. Paths are strings, because a million path objects would take 0.4 GiB."""


def split_folders(folder: Path) -> tuple[Path, Path | None]:
    """Return the folders of training and of validation images in `folder`: itself and None if it has no such split.

    Where there is no folder of validation images, one named `test` counts as one. Where there are both, `test` is left
    alone, with a warning.

    Raises:
        DataError: there are validation images without training images, two folders of the same split, or a folder
            beside them whose use is not known.
    """
    children = sorted(child for child in folder.iterdir() if child.is_dir() and not _is_foreign(child.name))
    train, val, test = (
        [child for child in children if child.name.lower() in names]
        for names in (TRAIN_FOLDERS, VAL_FOLDERS, TEST_FOLDERS)
    )
    if not any(_has_folders(child) for child in (*train, *val, *test)):
        return folder, None  # classes may be called so
    for same in (train, val, test):
        if len(same) > 1:
            raise DataError(f"{folder}: {' and '.join(child.name for child in same)} both name one split; keep one")
    if not train:
        raise DataError(f"{folder}: has a {(val or test)[0].name}, but no train/CLASS/*")
    others = [child.name for child in children if child not in (*train, *val, *test)]
    if others:
        known = ", ".join((*VAL_FOLDERS, TEST_FOLDERS[0]))
        raise DataError(
            f"{folder}: beside {train[0].name} there is {', '.join(map(printable, others[:5]))}, of which the use is "
            f"not known; images to test on are in one of {known}. Take it out, or name it so"
        )
    if val and test:
        text = f"{folder}: the images of {val[0].name} are tested on; those of {test[0].name} are left alone"
        warnings.warn(text, DataWarning, stacklevel=4)
    tested = next(iter(val or test), None)
    if tested is not None and not any(not _is_foreign(child.name) for child in tested.iterdir()):
        tested = None
    return train[0], tested


def split_folder(folder: Path, split: str) -> Path:
    """Return the folder of one split below `folder`, under any of its usual names, or `folder` itself if it has none.

    Images to test on stand in for those to validate on, where there are none of these.

    Raises:
        DataError: there are two; or `folder` has other splits, or the split is none that is known.
    """
    kinds = (TRAIN_FOLDERS, VAL_FOLDERS, TEST_FOLDERS)
    names = next((names for names in kinds if split.lower() in names), (split,))
    children = [child for child in folder.iterdir() if child.is_dir()] if folder.is_dir() else []
    exact = [child for child in children if child.name == split]
    found = exact or [child for child in children if child.name.lower() in names and _has_folders(child)]
    if len(found) > 1:
        raise DataError(f"{folder}: {' and '.join(sorted(c.name for c in found))} both name one split; keep one")
    if found:
        return found[0]
    others = sorted(c.name for c in children if any(c.name.lower() in kind for kind in kinds) and _has_folders(c))
    if names is VAL_FOLDERS and any(name.lower() in TEST_FOLDERS for name in others):
        return split_folder(folder, TEST_FOLDERS[0])
    if others or (names == (split,) and children):
        raise DataError(f"{folder}: no split {split!r}; there is {', '.join(others) or 'none'}")
    return folder


def _has_folders(folder: Path) -> bool:
    return any(child.is_dir() and not _is_foreign(child.name) for child in folder.iterdir())


def image_classes(folder: Path, progress: bool = False, may_be_empty: Iterable[str] = ()) -> Files:
    """Return the image files of each class (sub-folder, with the folders in it), in torchvision's order.

    Hidden files and folders, and those that file managers leave, are passed over at every depth. A warning counts the
    other files that are no images, by their extension.

    Args:
        progress: show a bar.
        may_be_empty: classes that may have no image here, with a warning: those of train, when `folder` is val.

    Raises:
        DataError: a folder cannot be read; a sub-folder has no images; two names are one class in two spellings; the
            sub-folders look like splits, or hold splits, instead of classes.
    """
    found, inner = _listed(folder, progress, lambda place: place.split("/", 1)[0])
    _refuse_splits(folder, inner)
    empty = [name for name, files in found.items() if not files]
    if allowed := [name for name in empty if name in set(may_be_empty)]:
        text = f"{folder}: no image of {', '.join(map(printable, allowed[:10]))}, a class of the training images"
        warnings.warn(text, DataWarning, stacklevel=3)
    if refused := [name for name in empty if name not in allowed]:
        # Leaving them out silently would shift the labels of all later classes.
        kinds = " ".join(sorted(EXTENSIONS))
        names = ", ".join(map(printable, refused[:10]))
        raise DataError(f"{folder}: no image ({kinds}) in {names}; remove what is no class")
    require_one_spelling(found, str(folder))
    return {name: files for name, files in found.items() if files}


def image_folders(folder: Path) -> Files:
    """Return the image files of every folder below `folder`, by its place there, such as `apartment/outdoor`."""
    return {place: files for place, files in _listed(folder, False, lambda place: place)[0].items() if files}


def folder_images(folder: Path) -> Iterator[str]:
    """Yield the paths of all image files in a folder and in those within it, folder by folder, in order of their names.

    Hidden files and folders, and those that file managers leave, are passed over.

    Raises:
        DataError: a folder cannot be read.
    """
    for place, names in walk(folder, _refuse, _is_foreign, in_order=True):
        yield from (f"{place}{os.sep}{name}" for name in sorted(names) if is_image_name(name))


def is_image_name(path: str) -> bool:
    """Return whether the extension is one of an image's, and no folder on the way is hidden or a file manager's."""
    *folders, name = path.split("/")
    return _extension(name) in EXTENSIONS and not any(_is_foreign(each) for each in folders if each not in (".", ".."))


def _listed(folder: Path, progress: bool, group: Callable[[str], str]) -> tuple[Files, dict[str, set[str]]]:
    """Return the images of each group, of which there is at least one a sub-folder, and the folders in those with any.

    Args:
        group: gives the group of a folder by its place below `folder`, with slashes.
    """
    found: Files = {}
    inner: dict[str, set[str]] = {}
    left_out: Counter[str] = Counter()
    children = sorted(folder.iterdir()) if folder.is_dir() else []
    with progress_bar(progress) as bar:
        for child in bar.track(children, description=f"listing {_plain(folder.name)}"):
            if _is_foreign(child.name):
                continue
            if not child.is_dir():
                left_out[IN_NO_CLASS if _extension(child.name) in EXTENSIONS else _kind(child.name)] += 1
                continue
            found.setdefault(group(child.name), [])
            for place, names in sorted(walk(child, _refuse, _is_foreign)):
                below = Path(place).relative_to(folder).as_posix()
                files = [f"{place}{os.sep}{name}" for name in sorted(names) if _extension(name) in EXTENSIONS]
                for name in names:
                    if _extension(name) not in EXTENSIONS and not _is_foreign(name):
                        left_out[_kind(name)] += 1
                if files:
                    found.setdefault(group(below), []).extend(files)
                    parts = below.split("/")
                    inner.setdefault(parts[0], set()).add(parts[1] if len(parts) > 1 else "")
    if left_out:
        _warn_left_out(folder, left_out)
    return found, inner


def _extension(name: str) -> str:
    """Return the extension in small letters; "" for files that file managers leave."""
    return "" if _is_foreign(name) else Path(name).suffix.lower()


def _kind(name: str) -> str:
    return Path(name).suffix or name


def _is_foreign(name: str) -> bool:
    """Whether a file or folder is hidden, or was left by a file manager: it is no part of the data."""
    return name.startswith(".") or name in _FOREIGN


_FOREIGN = frozenset(
    {"__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
    | {"Thumbs.db", "thumbs.db", "desktop.ini", "Desktop.ini", "Icon\r"}
)


def _warn_left_out(folder: Path, left_out: Counter[str]) -> None:
    counts = ", ".join(f"{n:,} {printable(kind)}" for kind, n in left_out.most_common(8))
    more = ", ..." if len(left_out) > 8 else ""
    hint = f" ({HEIF_HINT})" if any(kind.lower() in HEIF for kind in left_out) else ""
    warnings.warn(f"{folder}: left out: {counts}{more}{hint}", DataWarning, stacklevel=4)


def _refuse_splits(folder: Path, inner: dict[str, set[str]]) -> None:
    """Refuse sub-folders that all hold images in the same folders: one of both levels is splits, not classes."""
    kinds = list(inner.values())
    if len(kinds) < 2 or any(kind != kinds[0] for kind in kinds) or "" in kinds[0]:
        return
    same = sorted(kinds[0])
    splits = {*TRAIN_FOLDERS, *VAL_FOLDERS, *TEST_FOLDERS}
    if len(same) > 1 or same[0].lower() in splits:
        shown, names = ", ".join(map(printable, same[:4])), ", ".join(map(printable, sorted(inner)[:4]))
        raise DataError(
            f"{folder}: {names} all hold the same folders ({shown}): one of both "
            "is splits, not classes. Expected CLASS/*, or train/CLASS/* and val/CLASS/*; or list the images in a CSV"
        )


def _plain(name: str) -> str:
    """Return a name for a bar, where square brackets would be markup."""
    return printable(name).replace("[", r"\[")


def _refuse(error: OSError) -> None:
    """Raise a DataError for a folder that cannot be read: without it the labels of all later classes would shift."""
    raise DataError(f"{error.filename}: {error.strerror}") from error
