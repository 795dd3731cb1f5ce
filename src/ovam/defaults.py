"""Numbers that were chosen on validation scenes of the embedded model, read from one frozen file, `defaults.json`."""

import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

_CONTENT = files("ovam").joinpath("defaults.json").read_text(encoding="utf-8")

CHOSEN: Mapping[str, Any] = json.loads(_CONTENT)
"""The file's content; `made_by` is the command that chose, `model` the hash of the model that it chose on."""

CHOSEN_HASH = hashlib.sha256(_CONTENT.encode()).hexdigest()[:16]
"""Hash of the file: two versions of ovam with the same one have the same chosen numbers."""
