"""Pack Tiny ImageNet (Stanford CS231n), in its official layout, into a set."""

from pathlib import Path

from gmsop.data.images import EXTENSIONS
from gmsop.data.prepare.chunks import UnreadableImage, pack_files
from gmsop.data.prepare.image_list import ImageFile
from gmsop.data.prepare.options import PackOptions
from gmsop.data.prepare.registry import register_source
from gmsop.errors import DataError
from gmsop.utils.text import read_lines


@register_source("tiny-imagenet", "tiny-imagenet-200")
def pack_tiny_imagenet(
    source: str | Path,
    path: str | Path,
    size: int = 64,
    filter: str = "box",
    options: PackOptions | None = None,
) -> list[UnreadableImage]:
    """Pack `train/WNID/images/*.JPEG` and `val/images/*.JPEG` with `val/val_annotations.txt`.

    Labels follow the sorted WordNet ids. A class has the first name that `words.txt` gives its id, or else its id.

    Args:
        source: the folder `tiny-imagenet-200`, or the one that holds it.

    Returns:
        The images that were skipped.

    Raises:
        DataError: the layout is another; a class has no images; the list of val is empty or has a line that is not
            valid; a class in val is not in train; images cannot be read.
        WriteError: there is no space or no permission.
    """
    source = Path(source)
    if (source / "tiny-imagenet-200").is_dir():
        source /= "tiny-imagenet-200"
    annotations = source / "val" / "val_annotations.txt"
    if not (source / "train").is_dir() or not annotations.is_file():
        raise DataError(f"{source}: expected train/WNID/images and val/val_annotations.txt of tiny-imagenet-200")
    folders = (folder for folder in (source / "train").iterdir() if folder.is_dir())
    wnids = sorted(folder.name for folder in folders if not folder.name.startswith("."))
    if not wnids:
        raise DataError(f"{source / 'train'}: no folder WNID/images in it")
    label = {wnid: i for i, wnid in enumerate(wnids)}
    train = [
        ImageFile(file, label[wnid])
        for wnid in wnids
        for file in sorted((source / "train" / wnid / "images").glob("*"))
        if file.suffix.lower() in EXTENSIONS
    ]
    if empty := sorted(set(range(len(wnids))) - {file.label for file in train}):
        raise DataError(f"{source / 'train'}: no images in {', '.join(wnids[i] for i in empty[:10])}")
    val = []
    for i, line in enumerate(read_lines(annotations), 1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in label:
            raise DataError(f"{annotations}, line {i}: class {wnid!r} is not in train")
        val.append(ImageFile(source / "val" / "images" / name, label[wnid]))
    if not val:
        raise DataError(f"{annotations}: empty")
    names = _names(source / "words.txt", wnids)
    extra = {"wordnet_ids": wnids}
    files = {"train": train, "val": val}
    return pack_files(files, path, size, names, f"Tiny ImageNet, {source}", filter, options, extra)


def _names(words: Path, wnids: list[str]) -> list[str]:
    known = {}
    if words.is_file():
        for line in read_lines(words):
            wnid, _, name = line.partition("\t")
            known[wnid] = name.split(",")[0].strip()
    return [known.get(wnid) or wnid for wnid in wnids]
