"""Output folders: checked before a command's work, made when there is something to put in, gone if it then fails.

Loads nothing, so that the command line can ask before it loads anything.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ovam.errors import OptionError
from ovam.input_file import is_text


def check_folder(folder: str | Path) -> Path:
    """The folder as a path, if files can be put into it; nothing is made.

    Raises:
        OptionError: it, or the folder that it would be made in, is none or can't be written to.
    """
    folder = Path(folder)
    if not is_text(folder):
        raise OptionError(
            f"output folder {folder}: its name is no UTF-8, and traces can't be written under such a name"
        )
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise OptionError(
            f"output folder {folder} can't be made ({there} is no folder): expected a new or an existing folder"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise OptionError(f"output folder {folder} can't be written to: expected one that you may write to")
    return folder


@contextmanager
def kept_if_done(folder: Path) -> Iterator[None]:
    """Around the writing of files: if it breaks off, the folder and its parents are gone again where they are new.

    A folder that was there before stays, with all that is in it.
    """
    missing = [path for path in (folder.absolute(), *folder.absolute().parents) if not os.path.lexists(path)]
    try:
        yield
    except BaseException:  # an interruption as well
        if missing:
            shutil.rmtree(missing[-1], ignore_errors=True)
        raise
