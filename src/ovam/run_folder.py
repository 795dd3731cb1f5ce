"""A run's output folder: what is in it belongs to one run, whatever interrupts the next one."""

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
"""Goes before the first file of another run comes, and comes after the last one."""

_MADE = re.compile(
    r"(image-\d+/)?((maps|masks)/[^/\\]+\.png|sheet\.png|labels\.png|labels_overlay\.png|instances\.json)"
)
"""Files that are made of a run and can be made again; a record is a file, in which anything may stand."""


@contextmanager
def run_folder(folder: Path) -> Iterator[Path]:
    """A room inside the output folder, whose files take their places there when all of them are written.

    Pictures and tables that the record of an earlier run names are removed then; its image and trace, which may be what
    the new run was made of, and all other files stay. If writing breaks off, the folder is as it was before; if the
    process is killed while files move, it has no record. A folder that is new is gone again after a failure, with its
    new parents.

    Raises:
        OptionError: a file's place is taken by what is no file.
    """
    missing = [path for path in (folder.absolute(), *folder.absolute().parents) if not os.path.lexists(path)]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with partial_folder(folder) as room:
            yield room
            _move(room, folder)
    except BaseException:  # an interruption as well
        if missing:
            shutil.rmtree(missing[-1], ignore_errors=True)
        raise


def _move(room: Path, folder: Path) -> None:
    files = [path for path in sorted(room.rglob("*")) if path.is_file()]
    places = {file: (folder / file.relative_to(room)).resolve() for file in files}
    for place in places.values():
        if place.exists() and not place.is_file():
            raise OptionError(f"{place} can't be written: expected a file or a new name there, but it is none")
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
