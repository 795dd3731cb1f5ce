"""The manifest: an append-only record of what was done, which can be made again from the items.

Items are what counts; a line of the manifest never decides whether an item is there. Each shard appends to a file of
its own, so that no two processes write to one file; when all items are there, one file is left.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovam.json_text import parsed

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Shard:
    """A part of the units.

    Attributes:
        number: Its number, from 1.
        count: Number of all parts.
    """

    number: int = 1
    count: int = 1

    @property
    def manifest(self) -> str:
        """Name of the shard's own manifest."""
        return MANIFEST if self.count == 1 else f"manifest-{self.number}-of-{self.count}.jsonl"

    def has(self, unit: int) -> bool:
        """Whether a unit belongs to it."""
        return unit % self.count == self.number - 1


def done_line(index: int, unit: int) -> dict[str, Any]:
    """Return the line of an item that is done."""
    return {"index": index, "unit": unit, "status": "done"}


def failed_line(index: int, unit: int, attempt: int, error: Exception) -> dict[str, Any]:
    """Return the line of an item that failed."""
    failure = {"type": type(error).__name__, "message": " ".join(str(error).split())[:500]}
    return {"index": index, "unit": unit, "status": "failed", "attempt": attempt, "error": failure}


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line by one write, and wait until it is on the disk."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        put(handle, text_of(line).encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def put(handle: int, data: bytes) -> None:
    """Write all bytes."""
    while data:  # a full disk may take a part of it: the next write raises the error
        data = data[os.write(handle, data) :]


def text_of(line: Mapping[str, Any]) -> str:
    """Return a line with its end."""
    return json.dumps(line) + "\n"


def lines_in(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of all manifests of a data set; those that are cut short or damaged are left out."""
    for path in manifests(folder):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # another shard has just finished, and left one manifest of all
            continue
        for line in content.split(b"\n"):
            try:
                found = parsed(line.decode())
            except ValueError:
                continue
            if isinstance(found, dict) and isinstance(found.get("index"), int):
                yield found


def manifests(folder: Path) -> list[Path]:
    """Return the manifests of a data set: of whole runs and of shards."""
    return sorted(folder.glob("manifest*.jsonl"))


def mended(path: Path) -> bool:
    """Cut a line off that was not written to its end; return whether there was one."""
    if not path.is_file() or not path.stat().st_size:
        return False
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole == data:
        return False
    with path.open("r+b") as file:
        file.truncate(len(whole))
        os.fsync(file.fileno())
    return True


def attempts(lines: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """Return how often each item has failed."""
    found: dict[int, int] = {}
    for line in lines:
        if line.get("status") == "failed":
            found[line["index"]] = found.get(line["index"], 0) + 1
    return found


def settled(units: Mapping[int, int], lines: Iterable[Mapping[str, Any]]) -> str:
    """Return the manifest of a finished run: a line for each item that is done, then the last failure of each other.

    Args:
        units: Unit of each item that is done.
        lines: All lines so far.
    """
    failed = {line["index"]: line for line in lines if line.get("status") == "failed" and line["index"] not in units}
    done = [done_line(index, units[index]) for index in sorted(units)]
    return "".join(map(text_of, [*done, *(failed[index] for index in sorted(failed))]))
