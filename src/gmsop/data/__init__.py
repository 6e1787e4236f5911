"""Images in and out: the packed set, the loaders, and what makes packed sets."""

from gmsop.data.folder import pack_folder
from gmsop.data.loader import train_loader, val_loader
from gmsop.data.packed import PackedDataset, PackedWriter
from gmsop.data.sample import sample_path

__all__ = ["PackedDataset", "PackedWriter", "pack_folder", "sample_path", "train_loader", "val_loader"]
