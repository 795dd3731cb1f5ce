"""Checks of options and arguments, which run before anything is loaded or written.

Each function is the callback of one kind of parameter. None, for an option left out, is returned unchanged.
"""

import glob
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import typer

from ovam.commands.output_options import MAP_FORMATS, MASK_FORMATS
from ovam.errors import DatasetError, ImageInputError, OptionError, TokenFileError, TraceFileError, WeightsError
from ovam.input_file import is_tensor_file, is_text, regular
from ovam.model_names import check_name
from ovam.output_folders import check_folder

Given = TypeVar("Given", str, list[str], None)
Files = TypeVar("Files", Path, list[Path], None)
_DEVICE = re.compile(r"[a-z]+(:\d{1,3})?")
_SHARD = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,5})")
DATASET_FORMATS = ("voc", "coco", "panoptic", "yolo", "parquet", "webdataset")
_UNIT = 8  # divides height and width in every family


def text(value: Given) -> Given:
    """Check a text; bytes that are invalid in the terminal's encoding reach Python as lone surrogates."""
    for each in value if isinstance(value, list) else [value or ""]:
        if not is_text(each):
            raise typer.BadParameter("expected text in UTF-8")
    return value


def prompt(value: str | None) -> str | None:
    """Check that the prompt has a text."""
    if value is None:
        return None
    if not value.strip():
        raise typer.BadParameter("it is empty: expected a text that says what to generate")
    return text(value)


def finite(value: float | None) -> float | None:
    """Check that a number is finite; typer's own range check lets NaN pass."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value}: expected a finite number")
    return value


def share(value: float | None) -> float | None:
    """Check that a number is between 0 and 1, exclusive."""
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"{value:g}: expected a number between 0 and 1, exclusive")
    return value


def presence(value: float | None) -> float | None:
    """Check that a number is at least 0 and below 1."""
    if value is not None and not 0 <= value < 1:
        raise typer.BadParameter(f"{value:g}: expected a number of at least 0, and below 1")
    return value


def band(value: float | None) -> float | None:
    """Check that a number is at least 0 and below 0.5."""
    if value is not None and not 0 <= value < 0.5:
        raise typer.BadParameter(f"{value:g}: expected a number of at least 0, and below 0.5")
    return value


def mask_formats(value: str | None) -> str | None:
    """Check formats of masks."""
    return _formats(value, MASK_FORMATS)


def map_formats(value: str | None) -> str | None:
    """Check formats of maps."""
    return _formats(value, MAP_FORMATS)


def _formats(value: str | None, known: tuple[str, ...]) -> str | None:
    named = [one.strip() for one in (value or "").split(",") if one.strip()]
    unknown = next((one for one in named if one not in known), None)
    if unknown is not None or (value is not None and not named):
        raise typer.BadParameter(f"{unknown or value!r}: expected some of {', '.join(known)}")
    return value


def side(value: int | None) -> int | None:
    """Check a height or width of an image."""
    if value is not None and value % _UNIT:
        nearest = max(2, round(value / _UNIT)) * _UNIT
        raise typer.BadParameter(f"{value}: expected a multiple of {_UNIT} pixels, for example {nearest}")
    return value


def device(value: str | None) -> str | None:
    """Check the form of a device's name; torch itself checks later whether the device exists."""
    if value is not None and (not _DEVICE.fullmatch(value) or value in ("meta", "gpu")):
        raise typer.BadParameter(f"{value!r}: expected cpu, cuda, cuda:1, mps or another device of torch")
    return value


def model(value: str | None) -> str | None:
    """Check a model's name: mini, an existing folder, or a possible id."""
    if value is not None:
        check_name(value)
    return value


def file(value: Files) -> Files:
    """Check an input file, or a folder of input files."""
    for path in _listed(value):
        _opened(path, OptionError, "the name of a file")
    return value


def trace(value: Files) -> Files:
    """Check a trace file."""
    for path in _listed(value):
        _opened(path, TraceFileError, "a trace, such as the run.safetensors of `ovam generate`", tensors=True)
    return value


def tokens(value: Files) -> Files:
    """Check a token file."""
    for path in _listed(value):
        _opened(path, TokenFileError, "a file of tokens, such as one of `ovam optimize`", tensors=True)
    return value


def weights(value: Path | None) -> Path | None:
    """Check a file of a trained method's weights."""
    if value is not None:
        _opened(value, WeightsError, "the file that `python -m lab.methods train` wrote")
    return value


def sources(value: list[str]) -> list[str]:
    """Check trace or image files, or patterns of their names.

    A single file is checked completely. For several files, only that they exist: another fault of a file is reported
    when its turn comes, and does not stop the others.
    """
    paths = expanded(value)
    if not is_many(value):
        source(paths[0])
    for path in paths:
        if not os.path.exists(path):  # noqa: PTH110, Path.exists raises if a name is too long
            source(path)
    return value


def is_many(value: list[str]) -> bool:
    """Whether several files were given, or a pattern, even if it matches one file only."""
    return len(value) > 1 or any(map(_is_pattern, value))


def expanded(value: list[str]) -> list[Path]:
    """Return the files, with those that each pattern matches in its place, sorted by name; each file once.

    Raises:
        OptionError: nothing matches a pattern.
    """
    found: list[Path] = []
    for each in value:
        found += _matches(each) if _is_pattern(each) else [Path(each)]
    return list(dict.fromkeys(found))


def _matches(pattern: str) -> list[Path]:
    paths = map(Path, sorted(glob.glob(pattern, recursive=True)))  # noqa: PTH207, Path.glob takes no absolute pattern
    files = [path for path in paths if not path.is_dir()]
    if not files:
        raise OptionError(f"no file matches {pattern}: expected a pattern of traces or images, such as 'photos/*.jpg'")
    return files


def _is_pattern(value: str) -> bool:
    return glob.has_magic(value) and not os.path.lexists(value)


def source(value: Path) -> Path:
    """Check a trace or image file."""
    if value.suffix == ".safetensors":
        return trace(value)
    _opened(value, ImageInputError, "the name of an image file or of a trace")
    return value


def _listed(value: Path | list[Path] | None) -> Iterable[Path]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _opened(path: Path, error: type[Exception], expected: str, *, tensors: bool = False) -> None:
    """Raise the error if a file is missing or not readable, or, with `tensors`, not a safetensors file."""
    if not os.path.exists(path):  # noqa: PTH110, Path.exists raises if a name is too long
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
        raise error(f"{path} can't be read, its name is not UTF-8: rename it or its folder")
    if tensors and not is_tensor_file(path):
        raise error(f"{path} is damaged, cut short, or neither a trace nor a token file: expected {expected}")


def output_folder(value: Path | None) -> Path | None:
    """Check an output folder."""
    if value is not None:
        check_folder(value)
    return value


def output_file(value: Path) -> Path:
    """Check an output file; its folder must exist."""
    if not is_text(value):
        raise OptionError(f"{value} can't be written, its name is not UTF-8: choose another one")
    folder = value.absolute().parent
    if value.is_dir():
        raise OptionError(f"{value} can't be written, it is a folder: expected the name of a file; name a file in it")
    if os.path.lexists(value) and not value.is_file() and not value.is_symlink():
        raise OptionError(f"{value} can't be written, it is there but is not a file: expected a file or a new name")
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OptionError(f"{value} can't be written: expected an existing folder {folder} that you may write to")
    return value


def data_set(value: Path) -> Path:
    """Check the folder of a data set, which has a `dataset.json`."""
    if not (value / "dataset.json").is_file():
        raise DatasetError(f"{value} is no data set: expected a folder that `ovam dataset generate` wrote")
    return value


def place(value: str) -> str:
    """Check an output folder, or an address elsewhere."""
    if "://" not in text(value):
        check_folder(value)
    return value


def shard(value: str | None) -> str | None:
    """Check the form of a shard: its number and how many there are."""
    found = None if value is None else _SHARD.fullmatch(value)
    if value is not None and (found is None or int(found[1]) > int(found[2])):
        raise typer.BadParameter(f"{value!r}: expected the number of the part and the number of all parts, such as 2/4")
    return value


def one_format(value: str) -> str:
    """Check the name of a format of data sets."""
    if value not in DATASET_FORMATS:
        raise typer.BadParameter(f"{value!r}: expected one of {', '.join(DATASET_FORMATS)}")
    return value


def scratch_folder(value: Path | None) -> Path | None:
    """Check the folder for temporary files of a command; it must exist."""
    if value is not None and not (value.is_dir() and os.access(value, os.W_OK | os.X_OK)):
        raise OptionError(f"--disk {value}: expected an existing folder that you may write to")
    return value
