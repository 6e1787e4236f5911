"""The bundled images: 2,000 of EuroSAT (see `eurosat_sample.md` for source and licence), packed on first use."""

import os
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from zipfile import ZipFile

from gmsop.data.folder import Entry, pack_entries
from gmsop.data.packed import SPLITS, PackedDataset
from gmsop.errors import DataError
from gmsop.files import WriteError

SOURCE = "EuroSAT sample (Helber et al. 2019, MIT licence, contains Copernicus Sentinel data)"


def cache_folder() -> Path:
    """Where gmsop keeps what it can make again: `$GMSOP_CACHE`, or `gmsop` in the user's cache folder."""
    if own := os.environ.get("GMSOP_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gmsop"


def sample_path(progress: bool = False) -> Path:
    """The packed set of the bundled images: 1,500 for training, 500 for validation, 64 x 64, ten classes.

    Decoded into `cache_folder()` the first time (about two seconds); again if what is there is damaged.

    Raises:
        WriteError: the cache folder cannot be written.
    """
    path = cache_folder() / "eurosat_sample"
    try:
        PackedDataset(path, "train", verify=True)
    except DataError:
        try:
            _pack(path, progress)
        except WriteError as error:
            raise WriteError(f"{error}. Set GMSOP_CACHE to a folder that can be written") from error
    return path


def _pack(path: Path, progress: bool) -> None:
    with as_file(files("gmsop.data") / "eurosat_sample.zip") as file, ZipFile(file) as archive:
        images = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        names = sorted({name.split("/")[1] for name in images})
        entries = {
            split: [
                Entry(name, partial(archive.read, name), names.index(name.split("/")[1]))
                for name in images
                if name.startswith(f"{split}/")
            ]
            for split in SPLITS
        }
        pack_entries(entries, path, 64, names, SOURCE, "box", overwrite=True, progress=progress)
