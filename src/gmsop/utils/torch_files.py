"""Read files of PyTorch's that anybody may have written."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from gmsop.errors import CheckpointError


def load_unpacked(path: Path) -> Any:
    """Return what a file of PyTorch's holds, with nothing in it run, and no larger than the file in memory.

    Raises:
        Exception: of PyTorch's, of any kind; `CheckpointError` for a packed file.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise CheckpointError("packed, as PyTorch packs no file")
    return torch.load(path, map_location="cpu", weights_only=True)


def load_plain(path: Path) -> Any:
    """Return what a file of PyTorch's holds, as `load_unpacked` does, with plain tensors alone.

    Raises:
        Exception: of PyTorch's, of any kind; `CheckpointError` for a packed file, and for tensors that are not plain.
    """
    content = load_unpacked(path)
    _require_plain(content)
    return content


def _require_plain(tree: Any) -> None:
    """Refuse tensors that say more than is stored of them: with strides of 0 a few bytes would be gigabytes."""
    if isinstance(tree, dict):
        tree = [*tree.values()]
    if isinstance(tree, list | tuple):
        for entry in tree:
            _require_plain(entry)
    elif isinstance(tree, torch.Tensor):
        if tree.layout != torch.strided or tree.is_quantized or tree.is_complex() or tree.is_meta:
            raise CheckpointError("holds a sparse, quantized or complex tensor")
        if tree.numel() * tree.itemsize > tree.untyped_storage().nbytes():
            raise CheckpointError(f"holds a tensor of shape {tuple(tree.shape)} of which there are fewer numbers")
