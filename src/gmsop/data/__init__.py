"""Images to train and evaluate on: the packed set, folders, loaders. `gmsop.data.prepare` makes packed sets."""

from gmsop.data.image_folder import FolderDataset
from gmsop.data.inspection import contact_sheet, inspect_set
from gmsop.data.loader import train_loader, val_loader
from gmsop.data.packed import PackedDataset
from gmsop.data.sample import sample_path
from gmsop.data.writer import PackedWriter

__all__ = [
    "FolderDataset",
    "PackedDataset",
    "PackedWriter",
    "contact_sheet",
    "inspect_set",
    "sample_path",
    "train_loader",
    "val_loader",
]
