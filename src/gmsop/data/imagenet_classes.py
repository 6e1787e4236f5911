"""Name the classes of ImageNet-1k."""

from importlib.resources import files
from typing import NamedTuple


class ImageNetClass(NamedTuple):
    """Names a class of ImageNet."""

    wnid: str
    """WordNet id, such as n02119789."""
    name: str


def release_classes() -> list[ImageNetClass]:
    """Return the 1000 classes in the release's order, that of the ILSVRC development kit (`map_clsloc.txt`)."""
    lines = (files("gmsop.data") / "imagenet_classes.txt").read_text().splitlines()
    return [ImageNetClass(wnid, name) for wnid, _, name in map(str.split, lines)]
