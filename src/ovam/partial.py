"""Folders in which files are made before they take their places; those of processes that were killed are cleared."""

import hashlib
import os
import platform
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
"""Tells machines apart that share a folder: a process can be asked about on its own machine alone."""


@contextmanager
def partial_folder(beside: Path) -> Iterator[Path]:
    """An empty folder in another one, on the same disk; in the end it is gone, with all that was left in it."""
    _clear(beside)
    folder = beside / f"ovam-{_HOST}-{os.getpid()}-{secrets.token_hex(8)}.partial"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear(beside: Path) -> None:
    """Remove the folders that processes of this machine left which have ended since."""
    for left in beside.glob(f"ovam-{_HOST}-*.partial"):
        process = left.name.split("-")[2]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True)
