"""Walk through folders within folders."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def walk(
    folder: Path,
    on_error: Callable[[OSError], None] | None = None,
    skip: Callable[[str], bool] = lambda name: False,
    in_order: bool = False,
) -> Iterator[tuple[str, list[str]]]:
    """Yield `folder` and every folder below it, each with the names of its files.

    Links are followed, as in torchvision, but not into a folder that holds the link.

    Args:
        on_error: called with the error of a folder that cannot be read. Such a folder is skipped if this returns.
        skip: says by their names which folders are not entered.
        in_order: enter folders in order of their names, not as the disk has them.
    """
    for inner, children, names in os.walk(folder, onerror=on_error, followlinks=True):
        children[:] = [c for c in children if not skip(c)]
        if in_order:
            children.sort()
        links = {child for child in children if Path(inner, child).is_symlink()}
        above = {path.resolve() for path in (Path(inner), *Path(inner).parents)} if links else set()
        children[:] = [c for c in children if c not in links or Path(inner, c).resolve() not in above]
        yield inner, names
