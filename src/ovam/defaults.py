"""Numbers that were chosen on validation scenes of the embedded model, read from one frozen file, `defaults.json`."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

CHOSEN: Mapping[str, Any] = json.loads(files("ovam").joinpath("defaults.json").read_text(encoding="utf-8"))
"""The file's content; `made_by` is the command that chose, `model` the hash of the model that it chose on."""
