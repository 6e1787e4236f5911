"""Describe a stream as a set to train on, or to validate on."""

from dataclasses import dataclass
from pathlib import Path

from gmsop.data.timm_sources import Stream
from gmsop.data.transforms import Transform


@dataclass(frozen=True)
class Streamed:
    """Serves a stream's images as squares of uint8 pixels; `gmsop.data.stream_loader` reads them."""

    stream: Stream
    split: str
    """What they are called: "train" or "val"."""
    transform: Transform
    """From an image in RGB to (S, S, 3) uint8."""
    image_size: int
    """S."""
    seed: int | None = None
    """Of order and random transform; None: for evaluation."""

    @property
    def path(self) -> Path:
        """Return the source's name."""
        return Path(self.stream.name)

    @property
    def class_names(self) -> list[str]:
        """Return the class names; label i is `class_names[i]`."""
        return self.stream.class_names

    def __len__(self) -> int:
        return self.stream.count
