"""Read images for training and evaluation: packed sets, folders, loaders. `gmsop.data.prepare` makes packed sets."""

from typing import TYPE_CHECKING

from gmsop.utils.lazy import lazy_names

if TYPE_CHECKING:
    from gmsop.data.image_folder import FolderDataset
    from gmsop.data.inspection import contact_sheet, inspect_set
    from gmsop.data.loader import train_loader, val_loader
    from gmsop.data.packed import PackedDataset
    from gmsop.data.sample import sample_path
    from gmsop.data.writer import PackedWriter
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "FolderDataset": "gmsop.data.image_folder:FolderDataset",
            "PackedDataset": "gmsop.data.packed:PackedDataset",
            "PackedWriter": "gmsop.data.writer:PackedWriter",
            "contact_sheet": "gmsop.data.inspection:contact_sheet",
            "inspect_set": "gmsop.data.inspection:inspect_set",
            "sample_path": "gmsop.data.sample:sample_path",
            "train_loader": "gmsop.data.loader:train_loader",
            "val_loader": "gmsop.data.loader:val_loader",
        },
    )

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
