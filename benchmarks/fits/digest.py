"""Short names for what a number depends on, so that none is taken for another's."""

import functools
import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import benchmarks.rivals
import ovam

ENCODING = (
    *("backbones/*", "calls", "capture", "encode", "kept", "noise", "patched", "phrases", "prompt", "quantised"),
    *("recorders", "run", "schedule", "session", "storage", "trace", "wrapping"),
)
"""What makes traces."""
CODE = (
    *ENCODING,
    *("aggregate", "asked", "attention", "calibration", "map_options", "maps", "masks", "replay", "word_maps"),
    *("evaluate/overlap", "evaluate/ranking", "mini/oracle", "mini/scenes/*"),
    *("tokens/annotations", "tokens/loss", "tokens/optimize", "tokens/shares", "tokens/token_set"),
)
"""What fits, asks and scores as well."""
RIVALS = ("authors", "harness", "slime", "spread", "words")
HARNESS = ("generated", "methods", "ours", "outcome", "scenes", "traces", "trials")


def digest(value: Any) -> str:
    """12 hexadecimal digits of what JSON makes of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


@functools.cache
def encoding() -> str:
    """Digest of the source that makes traces, and of the version of torch."""
    return digest([version("torch"), *_sources(Path(str(ovam.__file__)).parent, ENCODING)])


@functools.cache
def code() -> str:
    """Digest of the source that makes traces, fits, asks and scores, and of the version of torch."""
    here, library = Path(__file__).parent, Path(str(ovam.__file__)).parent
    rivals = Path(str(benchmarks.rivals.__file__)).parent
    parts = ((library, CODE), (rivals, RIVALS), (here, HARNESS))
    return digest([version("torch"), *(text for part in parts for text in _sources(*part))])


def _sources(folder: Path, names: Sequence[str]) -> list[str]:
    """Texts of files; a name that fits none is of a file that was renamed, and must not drop out unseen."""
    files = {name: sorted(folder.glob(f"{name}.py")) for name in names}
    gone = [name for name, fitting in files.items() if not fitting]
    if gone:
        raise FileNotFoundError(f"{folder} has no {gone[0]}.py: expected what figures depend on")
    return [file.read_text() for fitting in files.values() for file in fitting]
