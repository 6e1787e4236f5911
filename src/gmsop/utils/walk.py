"""Folders within folders."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def walk(folder: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Every folder below, through links as torchvision goes, with the names of its files; none within itself.

    Args:
        on_error: told of a folder that cannot be read, which is passed over otherwise.
    """
    for inner, children, names in os.walk(folder, onerror=on_error, followlinks=True):
        links = {child for child in children if Path(inner, child).is_symlink()}
        above = {path.resolve() for path in (Path(inner), *Path(inner).parents)} if links else set()
        children[:] = [c for c in children if c not in links or Path(inner, c).resolve() not in above]
        yield inner, names
