"""Copy files into an export: it shares no file with the data set, so that tools may change it."""

import shutil
from pathlib import Path


def copied(source: Path, place: Path) -> None:
    """Copy a file; missing folders are made."""
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, place)
