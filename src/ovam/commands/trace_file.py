"""Read a trace file with the text encoder of its model; find out whether a file is a trace."""

from pathlib import Path
from typing import Any

from ovam.commands import Progress, no_progress
from ovam.errors import ModelNotFoundError
from ovam.input_file import is_tensor_file
from ovam.models import MINI
from ovam.trace.file import load_trace, read_header
from ovam.trace.trace import Trace


def open_trace(path: Path, model: Any, progress: Progress = no_progress) -> Trace:
    """Read a trace with the text encoder of `model`, or of mini if the trace names mini.

    The file alone causes no other model to be loaded, since a folder of that name may contain anything.

    Raises:
        TraceFileError: the file is no trace, damaged or newer.
        ModelNotFoundError: no model was given, and the trace names another one than mini.
        SpaceMismatchError: the trace was made with another model.
    """
    named = read_header(path).get("source")
    if model is None:
        model = str(named.get("model")) if isinstance(named, dict) else ""
        if model != MINI:
            raise ModelNotFoundError(
                f"{path} names the model {model!r}, but a file alone loads no model except 'mini': expected the model "
                "whose text encoder reads the words; give its folder or its id, model=... (--model on the command line)"
            )
    progress("loading the text encoder", 0, 0)
    return load_trace(path, model)


def is_trace(path: Path) -> bool:
    """Whether a file is a trace, by its name or its first bytes."""
    return path.suffix == ".safetensors" or is_tensor_file(path)


def beside(path: Path, what: str) -> Path:
    """Return the default output folder: beside the file, with its name and what is made."""
    return path.with_name(f"{path.stem}-{what}")
