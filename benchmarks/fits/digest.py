"""Short names for what a number depends on, so that none is taken for another's."""

import hashlib
import json
from pathlib import Path
from typing import Any

import benchmarks.rivals
import ovam

CODE = (
    *("aggregate", "attention", "calibration", "maps", "masks"),
    *("tokens/annotations", "tokens/loss", "tokens/optimize", "tokens/shares"),
    "mini/oracle",
)
RIVALS = ("authors", "harness", "slime", "spread", "words")
HARNESS = ("generated", "methods", "ours", "outcome", "scenes", "traces", "trials")


def digest(value: Any) -> str:
    """12 hexadecimal digits of what JSON makes of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def code() -> str:
    """Digest of the source that fits, asks and scores."""
    here, library = Path(__file__).parent, Path(str(ovam.__file__)).parent
    rivals = Path(str(benchmarks.rivals.__file__)).parent
    parts = ((library, CODE), (rivals, RIVALS), (here, HARNESS))
    return digest([(folder / f"{name}.py").read_text() for folder, names in parts for name in names])
