"""Output folders: checked before a command's work, created when its files are written, removed if that fails.

This module imports nothing heavy, so that the command line can use it first.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ovam.errors import OptionError
from ovam.input_file import is_text


def check_folder(folder: str | Path) -> Path:
    """Check that files can be written to a folder, without creating it; return it as a path.

    Raises:
        OptionError: the folder, or the one it would be created in, is no folder or not writable.
    """
    folder = Path(folder)
    if not is_text(folder):
        raise OptionError(
            f"output folder {folder}: its name is not UTF-8, and traces can't be written under such a name"
        )
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise OptionError(
            f"output folder {folder} can't be created ({there} is no folder): expected a new or an existing folder"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise OptionError(f"output folder {folder} can't be written to: expected one that you may write to")
    return folder


@contextmanager
def kept_if_done(folder: Path) -> Iterator[None]:
    """Run the writing of files; if it fails, remove the folder and its parents, if they are new.

    A folder that existed before stays, with everything in it.
    """
    missing = [path for path in (folder.absolute(), *folder.absolute().parents) if not os.path.lexists(path)]
    try:
        yield
    except BaseException:  # also if interrupted
        if missing:
            shutil.rmtree(missing[-1], ignore_errors=True)
        raise
