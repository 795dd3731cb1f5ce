"""Which files the commands write. This module imports nothing heavy, so that the command line can use it first."""

from collections.abc import Sequence
from dataclasses import dataclass

from ovam.errors import OptionError

MASK_FORMATS = ("png", "npy", "coco", "polygons", "labelstudio")
"""Formats of masks: pictures, arrays, COCO's JSON, outlines, and tasks for Label Studio."""
MAP_FORMATS = MASK_FORMATS[:2]
"""Formats of maps."""


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Which files to write. Values are checked when the object is made.

    Attributes:
        formats: Some of `MASK_FORMATS`.
        instances: Whether the record lists the objects as well; `instances.json` always does.
        split: Whether objects are cut at their necks, in all files that list objects.

    Raises:
        OptionError: a format is unknown, or there is none.
    """

    formats: Sequence[str] = ("png",)
    instances: bool = False
    split: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "formats", known_formats(self.formats))


def known_formats(formats: Sequence[str], known: Sequence[str] = MASK_FORMATS) -> tuple[str, ...]:
    """Return the formats, each once.

    Raises:
        OptionError: one is unknown, or there is none.
    """
    unknown = [one for one in formats if one not in known]
    if unknown or not formats or isinstance(formats, str):
        shown = repr(unknown[0]) if unknown and not isinstance(formats, str) else repr(formats)
        raise OptionError(f"format {shown}: expected some of {', '.join(known)}")
    return tuple(dict.fromkeys(formats))
