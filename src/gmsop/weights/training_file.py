"""Training checkpoints are read so that nothing in them can run."""

from pathlib import Path
from typing import Any

from gmsop.errors import CheckpointError
from gmsop.utils.torch_files import load_plain


def read_training_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return a Lightning checkpoint as a dict. It is loaded with `weights_only`: nothing in it is executed.

    Raises:
        CheckpointError: missing, truncated, or not a checkpoint of gmsop's training.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        checkpoint = load_plain(path)
    except Exception as error:  # on a file that is no checkpoint the unpickler may raise anything
        raise CheckpointError(f"{path}: not a training checkpoint, or truncated ({first_line(error)})") from error
    good = (
        isinstance(checkpoint, dict)
        and isinstance(checkpoint.get("gmsop"), dict)
        and {"model", "recipe"} <= set(checkpoint["gmsop"])
        and isinstance(checkpoint.get("state_dict"), dict)
        and isinstance(checkpoint.get("epoch"), int)
    )
    if not good:
        raise CheckpointError(f"{path}: not a checkpoint of gmsop's training")
    return dict(checkpoint)


def first_line(error: Exception) -> str:
    """Return an error's kind and the first line of its text."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
