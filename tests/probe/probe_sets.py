"""Small folders of images, and features of random numbers, for the tests of the probe."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from gmsop.probe.features import FORMAT, META, VERSION, Features
from gmsop.utils.files import digest


def folder_of_images(path: Path, classes: int = 3, each: int = 8, split: bool = False, side: int = 40) -> Path:
    """Images whose mean colour says nothing and whose texture tells the class."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        for i in range(each):
            part = ("val" if i % 4 == 3 else "train") if split else ""
            folder = path / part / f"class {label}"
            folder.mkdir(parents=True, exist_ok=True)
            noise = rng.normal(0, 40, (side, side, 3))
            noise = np.repeat(np.repeat(noise[:: label + 1, :: label + 1], label + 1, 0), label + 1, 1)[:side, :side]
            Image.fromarray((128 + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return path


def made_features(
    path: Path, each: int = 20, classes: int = 3, channels: int = 6, split: bool = False, flip: bool = False
) -> Features:
    """Features whose covariance tells the class and whose mean does not, at "second"; noise at "noise"."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(classes), each)
    mixing = rng.normal(size=(classes, channels, channels))
    maps = np.einsum("nij,njhw->nihw", mixing[labels], rng.normal(size=(len(labels), channels, 4, 5)))
    arrays = {
        "second": (maps - maps.mean((2, 3), keepdims=True)).astype(np.float16),
        "noise": rng.normal(size=(len(labels), channels + 2, 2, 3)).astype(np.float16),
    }
    is_test = (np.arange(len(labels)) % 4 == 0).tolist() if split else None
    return write_features(path, arrays, labels, is_test, flip)


def write_features(path: Path, arrays: dict, labels: np.ndarray, is_test: list | None = None, flip=False) -> Features:
    """Write arrays as `extract` would have."""
    path.mkdir(parents=True)
    for layer, values in arrays.items():
        np.save(path / f"{layer}.npy", values)
        if flip:
            np.save(path / f"{layer}.flip.npy", values[..., ::-1])
    np.save(path / "labels.npy", labels.astype(np.int64))
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "backbone": "test_resnet",
        "weights": {"from": "none", "sha256": ""},
        "preprocess": {"image_size": 64, "mean": [0.5] * 3, "std": [0.5] * 3, "filter_name": "bilinear"},
        "layers": {k: {"shape": list(v.shape[1:]), "dtype": str(v.dtype)} for k, v in arrays.items()},
        "data": {"path": "nowhere", "fingerprint": "made"},
        "names": [str(i) for i in range(len(labels))],
        "class_names": [f"class {i}" for i in range(int(labels.max()) + 1)],
        "is_test": is_test,
        "flip": flip,
        "batch_size": 4,
        "sha256": {file.name: digest(file) for file in path.glob("*.npy")},
    }
    (path / META).write_text(json.dumps(meta))
    return Features.open(path)
