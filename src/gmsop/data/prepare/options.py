"""Define the options of packing that sources share."""

from dataclasses import dataclass

from gmsop.errors import ConfigError


@dataclass(kw_only=True)
class WriteOptions:
    """Says how to write a packed set.

    Args:
        overwrite: replace a packed set that is there.
        progress: show a bar.
    """

    overwrite: bool = False
    progress: bool = False


@dataclass
class PackOptions(WriteOptions):
    """Says how to decode images and write a packed set.

    Args:
        overwrite: replace a packed set that is there.
        progress: show a bar.
        on_error: images that cannot be read: stop, once every other is decoded and all of them are named; or skip them,
            and list them in the set's description.
        workers: decoding processes; default: one per processor.
        shard: I/N, or (I, N): only decode the I-th of N shares, 1 to N, and join nothing. When all shares are done,
            here or on other machines, a run without it joins them.
    """

    on_error: str = "stop"
    workers: int | None = None
    shard: str | tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "skip"):
            raise ConfigError(f"on_error is 'stop' or 'skip', got {self.on_error!r}")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers must be at least 1, got {self.workers}")
        if isinstance(self.shard, str):
            first, slash, count = self.shard.partition("/")
            if not (slash and first.isdecimal() and count.isdecimal()):
                raise ConfigError(f"--shard is I/N, such as 3/16; got {self.shard!r}")
            self.shard = (int(first), int(count))
        if self.shard and not 1 <= self.shard[0] <= self.shard[1]:
            raise ConfigError(f"shard must be I/N with 1 <= I <= N, got {self.shard[0]}/{self.shard[1]}")

    @property
    def share(self) -> tuple[int, int] | None:
        """Return `shard` as numbers, or None."""
        return self.shard if isinstance(self.shard, tuple) else None
