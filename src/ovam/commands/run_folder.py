"""A run's output folder: what is in it belongs to one run, whatever interrupts the next one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ovam.errors import OptionError
from ovam.partial import partial_folder

RECORD = "result.json"
"""Goes before the first file of another run comes, and comes after the last one."""


@contextmanager
def run_folder(folder: Path) -> Iterator[Path]:
    """A room inside the output folder, whose files take their places there when all of them are written.

    If writing breaks off, the folder is as it was before; if the process is killed while files move, it has no record.
    Files of other names stay. A folder that is new is gone again after a failure, with its new parents.

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
    (folder / RECORD).unlink(missing_ok=True)
    for file in sorted(files, key=lambda file: file == room / RECORD):
        places[file].parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, places[file])  # a link may lead to another disk
