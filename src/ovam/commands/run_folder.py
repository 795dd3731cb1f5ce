"""A run's output folder: its files belong to one run, even if the next run is interrupted."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ovam.errors import OptionError
from ovam.partial import partial_folder

RECORD = "result.json"
"""Deleted before the first file of another run is written; written after all others."""


@contextmanager
def run_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder inside the output folder; when all files are written, move them to their places.

    If writing fails, the output folder is as before; a new folder is removed, with its new parents. If the process is
    killed while files are moved, the folder has no record. Files of other names stay.

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
    (folder / RECORD).unlink(missing_ok=True)
    for file in sorted(files, key=lambda file: file == room / RECORD):
        places[file].parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, places[file])  # a link may lead to another disk
