"""Compare class names: two spellings of one name, and folders named otherwise than a model's classes."""

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from gmsop.data.imagenet_classes import release_classes
from gmsop.errors import DataError
from gmsop.utils.text import printable


def require_one_spelling(names: Iterable[str], where: str) -> None:
    """Refuse names that are probably one class, spelt in two ways: as two classes they would be learnt apart.

    These count as the same: other capitals (except in single letters), other spaces, hyphens or underscores between
    words, another encoding of the same accented letter, full-width letters, characters that nobody sees, and numbers of
    equal value (`0`, `0.0`, `00`).

    Args:
        where: the folder or table they are from, for the error.

    Raises:
        DataError: naming both spellings.
    """
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in names:
        spellings[_key(name)].append(name)
    if same := next((found for found in spellings.values() if len(found) > 1), None):
        shown = " and ".join(repr(printable(name)) for name in sorted(same)[:3])
        raise DataError(f"{where}: the classes {shown} are probably one, in two spellings; give it one name")


def _key(name: str) -> str:
    seen = "".join(c for c in name if unicodedata.category(c) not in ("Cf", "Cc") or c.isspace())
    wide = re.sub("[\uff01-\uff5e]", lambda found: unicodedata.normalize("NFKC", found[0]), seen)
    text = " ".join(unicodedata.normalize("NFC", wide).split())
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return repr(number)
    words = re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", text)
    return words if len(words) == 1 else words.casefold()


def label_of_folders(folders: Iterable[str], class_names: Sequence[str], given: bool = False) -> Mapping[str, int]:
    """Return which class each folder of images holds, by the model's own names for its classes.

    A folder is given by its place below the data, such as `apartment_building/outdoor`. Its class is the first of
    these that the model knows: that place; without the letter that Places-365 sorts its folders by
    (`a/apartment_building/outdoor`); its first folder, where a class has folders within. If the model has the classes
    of ImageNet-1k, folders may be named by WordNet ids.

    Args:
        given: the names are not the model's own but those of `folder_names`.

    Raises:
        DataError: folders that are no class of the model's, or names that the model has twice.
    """
    label = {name: i for i, name in enumerate(class_names)}
    if len(label) < len(class_names):
        if given:
            twice = next(name for i, name in enumerate(class_names) if label[name] != i)
            raise DataError(f"folder_names has {printable(twice)} twice: one folder for each class")
        raise DataError("the model has two classes of the same name: give the folders' names with folder_names")
    if len(class_names) == 1000:
        ids = {c.name: c.wnid for c in release_classes()}
        if set(ids) == set(class_names):
            label |= {ids[name]: i for i, name in enumerate(class_names)}
    found: dict[str, int] = {}
    unknown = []
    for folder in folders:
        parts = folder.split("/")
        sorted_by = len(parts) > 1 and len(parts[0]) == 1 and parts[1].startswith(parts[0])
        places = [folder, *(["/".join(parts[1:])] if sorted_by else [])]
        places += ["/".join(place.split("/")[:k]) for place in places for k in range(place.count("/"), 0, -1)]
        if name := next((place for place in places if place in label), None):
            found[folder] = label[name]
        else:
            unknown.append(folder)
    if unknown:
        names = ", ".join(printable(name) for name in unknown[:5])
        known = ", ".join([*map(printable, class_names[:5]), *(["..."] if len(class_names) > 5 else [])])
        raise DataError(
            f"the model knows no class named {names}; its classes are {known}. "
            "Folders that are only named otherwise: give their names in the order of the classes, as folder_names"
        )
    return found
