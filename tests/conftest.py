"""Shared fixtures. The sample set is packed once, into a cache folder of the test session's own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: its kernels then run on a CPU

import gmsop.data


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what stays in one process: it takes longest, and the other process has the rest meanwhile."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    os.environ["GMSOP_CACHE"] = str(folder)
    yield folder
    del os.environ["GMSOP_CACHE"]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def sample(cache: Path) -> Path:
    return gmsop.data.sample_path()


@pytest.fixture(scope="session")
def small_set(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 + 40 of the sample's images, all ten classes, as a packed set."""
    path = tmp_path_factory.mktemp("packed") / "small"
    splits = {"train": 90, "val": 40}
    names = gmsop.data.PackedDataset(sample, "train").class_names
    with gmsop.data.PackedWriter(path, 64, splits, names, "EuroSAT sample", "box") as writer:
        for split, count in splits.items():
            dataset = gmsop.data.PackedDataset(sample, split)
            for i in range(count):
                writer.add(*dataset[i * len(dataset) // count])
    return path
