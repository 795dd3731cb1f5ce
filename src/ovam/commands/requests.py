"""What was asked, as JSON and as a hash, so that a later run can tell whether it is done."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovam.maps.gains import WordGains
from ovam.maps.words import OptimisedTokens

_PLACES = ("device", "disk", "limit_gib")
"""Options that change where and whether something is computed, not what."""


def plain(value: Any) -> Any:
    """Return options, words or other values as JSON's types.

    Optimised tokens become their classes with a hash of their vectors, and word gains their words with a hash of their
    maps. Values of unknown types become their text.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, OptimisedTokens):
        return {"classes": list(value.classes), "tokens": _hash_of(value)}
    if isinstance(value, WordGains):
        return {"words": list(value.words), "looks": value.looks, "maps": _hash_of_maps(value)}
    if is_dataclass(value):
        names = (field.name for field in fields(value) if field.name not in _PLACES)
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(map(plain, value), key=str)
    if isinstance(value, Sequence | np.ndarray):
        return [plain(each) for each in value]
    return str(value)


def request_of(**settings: Any) -> str:
    """Return a hash of what was asked: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(plain(settings), sort_keys=True).encode()).hexdigest()[:16]


def state_of(path: Path) -> list[int]:
    """Return a file's size and the time of its last change, or nothing if it is missing."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def _hash_of(tokens: OptimisedTokens) -> str:
    digest = hashlib.sha256(repr(sorted(tokens.calibrations.items())).encode())
    if tokens.thresholds:
        digest.update(repr(sorted(tokens.thresholds.items())).encode())
    for prompt in tokens.prompts():
        digest.update(prompt.vectors.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _hash_of_maps(gains: WordGains) -> str:
    return hashlib.sha256(gains.maps.detach().float().cpu().numpy().tobytes()).hexdigest()[:16]
