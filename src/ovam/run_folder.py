"""A run's output folder: its files belong to one run, even if the next run is interrupted."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ovam.errors import OptionError
from ovam.json_text import read_json
from ovam.partial import partial_folder

RECORD = "result.json"
"""Deleted before the first file of another run is written; written after all others."""

_MADE = re.compile(
    r"(image-\d+/)?((maps|masks)/[^/\\]+\.png|sheet\.png|labels\.png|labels_overlay\.png|(maps|scores|labels)\.npy"
    r"|(instances|coco|polygons|label_studio)\.json)"
)
"""Files that are made of a run and can be made again; a record is a file, in which anything may stand."""


@contextmanager
def run_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder inside the output folder; when all files are written, move them to their places.

    First, pictures and tables that the record of an earlier run names are removed. Its image and trace stay, because
    the new run may read them; all other files stay as well. If writing fails, the output folder is as before; a new
    folder is removed, with its new parents. If the process is killed while files are moved, the folder has no record.

    Raises:
        OptionError: the place of a file is taken by something that is not a file.
    """
    missing = [path for path in (folder.absolute(), *folder.absolute().parents) if not os.path.lexists(path)]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with partial_folder(folder) as room:
            yield room
            _move(room, folder)
    except BaseException:  # also if interrupted
        if missing:
            shutil.rmtree(missing[-1], ignore_errors=True)
        raise


def _move(room: Path, folder: Path) -> None:
    files = [path for path in sorted(room.rglob("*")) if path.is_file()]
    places = {file: (folder / file.relative_to(room)).resolve() for file in files}
    for place in places.values():
        if place.exists() and not place.is_file():
            raise OptionError(f"{place} can't be written: expected a file or a new name there, but it is not a file")
    left = _made_before(folder)
    (folder / RECORD).unlink(missing_ok=True)
    for name in left:
        (folder / name).unlink(missing_ok=True)
    for file in sorted(files, key=lambda file: file == room / RECORD):
        places[file].parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, places[file])  # a link may lead to another disk


def _made_before(folder: Path) -> list[str]:
    """Return the files that the record of an earlier run names, as far as it made them of a trace."""
    try:
        record = read_json(folder / RECORD)
    except (OSError, ValueError):
        return []
    return [name for name in _names(record, "") if _MADE.fullmatch(name) and (folder / name).is_file()]


def _names(value: Any, inside: str) -> Iterator[str]:
    """Yield all texts in a record as names; those of one image of several are relative to its folder."""
    if isinstance(value, str):
        yield inside + value
    elif isinstance(value, dict):
        found = value.get("folder")
        within = f"{found}/" if isinstance(found, str) and found != "." else inside
        for part in value.values():
            yield from _names(part, within)
    elif isinstance(value, list):
        for part in value:
            yield from _names(part, inside)
