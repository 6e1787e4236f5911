"""Say where the images of a run lie, and which of them are validated on."""

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from gmsop.errors import ConfigError
from gmsop.utils.options import Range, in_words, is_valid, options_of


@dataclass(frozen=True)
class DataOptions:
    """Says where images lie, and which of them are validated on.

    Args:
        data_dir: of a source that timm reads by a name (`hfds/NAME`, `wds/NAME`, `torch/NAME`, ...): its folder.
        val_data: folder, table or tar file of the images to validate on, where they lie elsewhere.
        train_split: name of the split to train on, of a source that timm reads by a name.
        val_split: name of the split, or of the sub-folder, to validate on; default: as it is usually called.
        val_share: share of each class's training images that is held out to validate on, where there are no others.
        split_seed: which images are held out follows from it alone.
        class_map: text file with the name of each class, one a line, in the order of their numbers; default: sorted.
        num_samples: training images of a stream that does not say how many it has.
        val_samples: the same of the images to validate on.
        on_error: "stop" at an image that cannot be read, or "skip" it.
        exif_orientation: turn photographs as their EXIF data says, as viewers do.
    """

    data_dir: str | None = None
    val_data: str | None = None
    train_split: str = "train"
    val_split: str | None = None
    val_share: Annotated[float, Range(above=0, below=1)] = 0.2
    split_seed: Annotated[int, Range(least=0, below=2**32)] = 0
    class_map: str | None = None
    num_samples: Annotated[int, Range(least=1)] | None = None
    val_samples: Annotated[int, Range(least=1)] | None = None
    on_error: Literal["stop", "skip"] = "stop"
    exif_orientation: bool = True

    def __post_init__(self) -> None:
        for option in options_of(DataOptions).values():
            if not is_valid(value := getattr(self, option.name), option.type):
                raise ConfigError(f"{option.name} must be {in_words(option.type)}, got {value!r}")

    def given(self) -> dict[str, Any]:
        """Return the values that are not the defaults."""
        return {f.name: asdict(self)[f.name] for f in fields(self) if getattr(self, f.name) != f.default}
