"""Write the files of items: under temporary names in one folder, then renamed, the item's own file last."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovam.dataset.annotate import Annotated
from ovam.dataset.item import Item
from ovam.dataset.manifest import append, done_line
from ovam.dataset.names import IMAGES, ITEMS, MASKS, stem_of
from ovam.dataset.prompts import PlannedItem
from ovam.errors import DatasetError, OvamError
from ovam.partial import partial_folder
from ovam.pictures import palette_png
from ovam.stored_picture import encoded


class UnwritableError(DatasetError):
    """Nothing more can be written: the run ends, since all further items would fail as well."""


@dataclass(frozen=True)
class Store:
    """The folder of a data set while it is written.

    Attributes:
        folder: The folder.
        room: Folder for temporary files, on the same disk; it is removed in the end.
        manifest: File that lines are appended to.
    """

    folder: Path
    room: Path
    manifest: Path

    def keep(self, planned: PlannedItem, unit: int, image_png: bytes, made: Annotated) -> Item:
        """Write an item: the image, the mask, then its own file, then its line.

        A process that is killed leaves an item without its own file, which is made again, or without its line, which
        is added by the next run.

        Raises:
            UnwritableError: the disk is full, or the folder can't be written to any more.
        """
        stem = stem_of(planned.index)
        mask_png = encoded(palette_png(made.labels))
        item = Item(
            self.folder,
            planned.index,
            unit,
            planned.seed,
            planned.prompt,
            planned.classes,
            planned.split,
            f"{IMAGES}/{stem}.png",
            hashlib.sha256(image_png).hexdigest(),
            f"{MASKS}/{stem}.png",
            hashlib.sha256(mask_png).hexdigest(),
            made.areas,
            made.ignored,
            made.scores,
            made.hash,
        )
        with full_disk_as_error(self.folder):
            self.write(item.image, image_png)
            self.write(item.mask, mask_png)
            self.write(f"{ITEMS}/{stem}.json", (json.dumps(item.json(), ensure_ascii=False) + "\n").encode())
            self.record(planned.index, unit)
        return item

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the data set; it is written whole or not at all."""
        temporary = self.room / name.replace("/", "-")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.rename(temporary, self.folder / name)

    def rename(self, temporary: Path, place: Path) -> None:
        """Give a file its name."""
        temporary.replace(place)

    def record(self, index: int, unit: int) -> None:
        """Append the line of an item that is done."""
        self.line(done_line(index, unit))

    def line(self, line: Mapping[str, Any]) -> None:
        """Append a line to the manifest.

        Raises:
            UnwritableError: the disk is full, or the folder can't be written to any more.
        """
        with full_disk_as_error(self.folder):
            append(self.manifest, line)


@contextmanager
def store_in(folder: Path, manifest: str) -> Iterator[Store]:
    """Open a folder for writing; temporary files of processes that were killed are removed."""
    with full_disk_as_error(folder):
        for name in (ITEMS, IMAGES, MASKS):
            (folder / name).mkdir(parents=True, exist_ok=True)
    with partial_folder(folder) as room:
        yield Store(folder, room, folder / manifest)


@contextmanager
def full_disk_as_error(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into one that ends the run.

    Raises:
        UnwritableError: a file can't be written.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, OvamError):
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else error.strerror or str(error)
        raise UnwritableError(
            f"{folder} can't be written to ({reason}): finished items are complete; make room and run the same command "
            "again"
        ) from error
