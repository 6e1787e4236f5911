"""The errors gmsop raises. Every one is a `GmsopError`, and also the builtin a caller would expect."""

from collections.abc import Iterable
from difflib import get_close_matches


class GmsopError(Exception):
    """Base of every error gmsop raises on purpose; its text is meant for the user as it is."""


class ConfigError(GmsopError, ValueError):
    """An argument, a recipe value or a tensor shape that cannot work."""


class UnknownNameError(GmsopError, LookupError):
    """A name that is not registered. The text lists the nearest names."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str]) -> "UnknownNameError":
        known = sorted(known)
        begun = sorted((each for each in known if name and each.startswith(name)), key=len)
        near = list(dict.fromkeys([*begun, *get_close_matches(name, known, n=3, cutoff=0.4)]))[:3]
        hint = f"Nearest: {', '.join(near)}." if near else f"Known: {', '.join(known)}."
        return cls(f"unknown {kind} {name!r}. {hint}")


class CheckpointError(GmsopError, RuntimeError):
    """A weights file that is missing, damaged, or of another model."""


class DataError(GmsopError, ValueError):
    """Images, labels or a packed set that are not what they should be."""


class GmsopWarning(RuntimeWarning):
    """Base of every warning gmsop gives; its text is meant for the user as it is."""


class DataWarning(GmsopWarning):
    """Files or images that are left out, or are probably not what they should be."""


class TrainingWarning(GmsopWarning):
    """Something went wrong that a run goes on without."""


class TrainingError(GmsopError, RuntimeError):
    """A run that cannot go on."""
