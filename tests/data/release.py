"""Fixtures in exactly the published formats, from the sample's own images."""

import pickle
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np

from gmsop.data import PackedDataset


def sample_images(sample: Path, count: int, size: int = 64) -> np.ndarray:
    return np.array(PackedDataset(sample, "train").images[:count, :size, :size])


def planes(images: np.ndarray) -> np.ndarray:
    """(n, S, S, 3) to the release's rows: all of red, all of green, all of blue."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def release(folder: Path, sample: Path, kind: str = "pickle", size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Eleven batches of three images each below `folder`. Gives the images and the labels, 1 to 1000."""
    count = 33
    images = sample_images(sample, count, size)
    labels = np.arange(count) * 31 % 1000 + 1
    names = [*(f"train_data_batch_{i}" for i in range(1, 11)), "val_data"]
    folder.mkdir(parents=True, exist_ok=True)
    step = count // 11
    for i, name in enumerate(names):
        rows = slice(i * step, (i + 1) * step)
        batch = {"data": planes(images[rows]), "labels": labels[rows].tolist()}
        if name != "val_data":
            batch["mean"] = planes(images[rows]).mean(0)
        write(folder, name, batch, kind)
    return images, labels


def write(folder: Path, name: str, batch: dict, kind: str) -> None:
    if kind in ("pickle", "zip of pickle", "numpy 1", "protocol 2"):
        data = pickle.dumps(batch, protocol={"protocol 2": 2, "numpy 1": 3}.get(kind, 4))
        if kind == "numpy 1":  # the module's name before NumPy 2
            data = data.replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray")
        if kind == "zip of pickle":
            with ZipFile(folder / f"{name}.zip", "w", ZIP_DEFLATED) as archive:
                archive.writestr(f"Imagenet64/{name}", data)
        else:
            (folder / name).write_bytes(data)
    else:
        np.savez(folder / f"{name}.npz", **{k: np.asarray(v) for k, v in batch.items()})
        if kind == "zip of npz":
            with ZipFile(folder / f"Imagenet64_{name}_npz.zip", "w", ZIP_DEFLATED) as archive:
                archive.write(folder / f"{name}.npz", f"{name}.npz")
            (folder / f"{name}.npz").unlink()
