"""Provide the bundled images: 2,000 of EuroSAT (source and licence: `eurosat_sample.md`), packed on first use."""

import time
from importlib.resources import as_file, files
from pathlib import Path
from zipfile import ZipFile

from gmsop.data.images import decode_rgb
from gmsop.data.packed import SPLITS, PackedDataset
from gmsop.data.writer import PackedWriter, SetInUseError
from gmsop.errors import DataError
from gmsop.utils.cache import cache_folder
from gmsop.utils.files import WriteError, write_error
from gmsop.utils.progress import progress_bar

SOURCE = "EuroSAT sample (Helber et al. 2019, MIT licence, contains Copernicus Sentinel data)"


def sample_path(progress: bool = False) -> Path:
    """Return the packed set of the bundled images: 1,500 for training, 500 for validation, 64 x 64, ten classes.

    The first call packs it into `cache_folder()`, in about two seconds. A damaged set is packed again.

    Raises:
        WriteError: the cache folder cannot be written.
    """
    path = cache_folder() / "eurosat_sample"
    while True:
        try:
            PackedDataset(path, "train", verify=True)
            return path
        except DataError:
            try:
                _pack(path, progress)
                return path
            except SetInUseError:  # perhaps another process of the same run is packing it
                time.sleep(0.1)
            except WriteError as error:
                raise WriteError(f"{error}. Set GMSOP_CACHE to a folder that can be written") from error


def unpack_sample(folder: Path) -> int:
    """Write the bundled images as JPEG files, `folder/train/CLASS/*` and `folder/val/CLASS/*`; return how many.

    Raises:
        WriteError: there is something at `folder` already, no space, no permission.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WriteError(f"cannot write {folder}: there is something at that place")
    try:
        with as_file(files("gmsop.data") / "eurosat_sample.zip") as file, ZipFile(file) as archive:
            names = [name for name in archive.namelist() if name.endswith(".jpg")]
            archive.extractall(folder, names)
    except OSError as error:
        raise write_error(folder, error) from error
    return len(names)


def _pack(path: Path, progress: bool) -> None:
    with as_file(files("gmsop.data") / "eurosat_sample.zip") as file, ZipFile(file) as archive:
        images = {
            split: sorted(n for n in archive.namelist() if n.startswith(f"{split}/") and n.endswith(".jpg"))
            for split in SPLITS
        }
        names = sorted({name.split("/")[1] for name in images["train"]})
        counts = {split: len(members) for split, members in images.items()}
        with (
            PackedWriter(path, 64, counts, names, SOURCE, "box", overwrite=True) as writer,
            progress_bar(progress) as bar,
        ):
            for name in bar.track([*images["train"], *images["val"]], description="packing"):
                writer.add(decode_rgb(archive.read(name), 64, "box"), names.index(name.split("/")[1]))
