"""Images in and out: the packed set, the loaders, and what makes packed sets."""

from gmsop.data.folder import pack_folder
from gmsop.data.image_list import ImageFile
from gmsop.data.imagenet import pack_imagenet
from gmsop.data.imdb import pack_imdb
from gmsop.data.inspect import contact_sheet, inspect_set
from gmsop.data.live import FolderDataset
from gmsop.data.loader import train_loader, val_loader
from gmsop.data.packed import PackedDataset
from gmsop.data.parts import PackOptions, UnreadableImage
from gmsop.data.places365 import pack_places365
from gmsop.data.sample import sample_path
from gmsop.data.tiny_imagenet import pack_tiny_imagenet
from gmsop.data.writer import PackedWriter

__all__ = [
    "FolderDataset",
    "ImageFile",
    "PackOptions",
    "PackedDataset",
    "PackedWriter",
    "UnreadableImage",
    "contact_sheet",
    "inspect_set",
    "pack_folder",
    "pack_imagenet",
    "pack_imdb",
    "pack_places365",
    "pack_tiny_imagenet",
    "sample_path",
    "train_loader",
    "val_loader",
]
