"""What options and arguments may be, told while they are read: before anything is loaded or made.

Each function is a callback of one kind of parameter; None, where nothing was given, is let through.
"""

import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import typer

from ovam.errors import ImageInputError, OptionError, TokenFileError, TraceFileError
from ovam.input_file import is_tensor_file, is_text, regular
from ovam.model_names import check_name
from ovam.output_folders import check_folder

Given = TypeVar("Given", str, list[str], None)
Files = TypeVar("Files", Path, list[Path], None)
_DEVICE = re.compile(r"[a-z]+(:\d{1,3})?")
_UNIT = 8  # of every family's sides


def text(value: Given) -> Given:
    """Text that was typed in the terminal's encoding; bytes that are none reach Python as lone surrogates."""
    for each in value if isinstance(value, list) else [value or ""]:
        if not is_text(each):
            raise typer.BadParameter("expected text in UTF-8")
    return value


def prompt(value: str) -> str:
    """What to generate."""
    if not value.strip():
        raise typer.BadParameter("it is empty: expected a text that says what to generate")
    return text(value)


def finite(value: float | None) -> float | None:
    """A number; NaN lies in every range, as comparisons of it are false."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value}: expected a finite number")
    return value


def share(value: float | None) -> float | None:
    """A number between 0 and 1, which it may not be itself."""
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"{value:g}: expected a number between 0 and 1, exclusive")
    return value


def side(value: int | None) -> int | None:
    """Height or width of an image."""
    if value is not None and value % _UNIT:
        nearest = max(2, round(value / _UNIT)) * _UNIT
        raise typer.BadParameter(f"{value}: expected a multiple of {_UNIT} pixels, for example {nearest}")
    return value


def device(value: str | None) -> str | None:
    """A device's name; whether torch finds it is told when torch is loaded."""
    if value is not None and (not _DEVICE.fullmatch(value) or value in ("meta", "gpu")):
        raise typer.BadParameter(f"{value!r}: expected cpu, cuda, cuda:1, mps or another device of torch")
    return value


def model(value: str | None) -> str | None:
    """A model's name: mini, a folder that is there, or what may be an id."""
    if value is not None:
        check_name(value)
    return value


def file(value: Files) -> Files:
    """Any file that is read, or folder of such files."""
    for path in _listed(value):
        _opened(path, OptionError, "the name of a file")
    return value


def trace(value: Files) -> Files:
    """A trace's file."""
    for path in _listed(value):
        _opened(path, TraceFileError, "a trace, as `ovam generate` writes run.safetensors", tensors=True)
    return value


def tokens(value: Files) -> Files:
    """A file of tokens."""
    for path in _listed(value):
        _opened(path, TokenFileError, "a file of tokens, as `ovam optimize` writes it", tensors=True)
    return value


def source(value: Path) -> Path:
    """A trace or an image."""
    if value.suffix == ".safetensors":
        return trace(value)
    _opened(value, ImageInputError, "the name of an image file or of a trace")
    return value


def _listed(value: Path | list[Path] | None) -> Iterable[Path]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _opened(path: Path, error: type[Exception], expected: str, *, tensors: bool = False) -> None:
    """Raises the error where a file is not there, can't be read, or is not of safetensors as it should be."""
    if not os.path.exists(path):  # noqa: PTH110, Path.exists raises where a name is too long
        raise error(f"{path} can't be read, it is not there: expected {expected}")
    try:
        regular(path)
    except OSError as reason:
        raise error(f"{path} can't be read ({reason.strerror}): expected {expected}") from reason
    if not os.access(path, os.R_OK):
        raise error(f"{path} can't be read (no permission): expected {expected}")
    if tensors and path.is_dir():
        raise error(f"{path} is not a file, but a folder: expected {expected}")
    if tensors and not is_text(path):
        raise error(f"{path} can't be read, its name is no UTF-8: rename it or its folder")
    if tensors and not is_tensor_file(path):
        raise error(f"{path} is damaged, cut short, or of another kind, and not a trace or tokens: expected {expected}")


def output_folder(value: Path | None) -> Path | None:
    """A folder that is written to."""
    if value is not None:
        check_folder(value)
    return value


def output_file(value: Path) -> Path:
    """A file that is written, into a folder that is there."""
    if not is_text(value):
        raise OptionError(f"{value} can't be written, its name is no UTF-8: choose another one")
    folder = value.absolute().parent
    if value.is_dir():
        raise OptionError(f"{value} can't be written, it is a folder: expected the name of a file; name a file in it")
    if os.path.lexists(value) and not value.is_file() and not value.is_symlink():
        raise OptionError(f"{value} can't be written, it is no file: expected a file or a new name")
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OptionError(
            f"{value} can't be written: expected a folder {folder} that is there and that you may write to"
        )
    return value


def scratch_folder(value: Path | None) -> Path | None:
    """A folder that is there, for what is kept while a command runs."""
    if value is not None and not (value.is_dir() and os.access(value, os.W_OK | os.X_OK)):
        raise OptionError(f"--disk {value}: expected a folder that is there and that you may write to")
    return value
