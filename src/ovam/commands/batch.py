"""Many items, one folder each: those that are done are skipped, those that fail are recorded, the others go on.

`results.jsonl` has a line for each item: its folder (`item`), `source`, `status`, and either the content of its
`result.json` or an `error`. A second run goes on where the first one stopped.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovam.commands import Progress
from ovam.errors import OptionError
from ovam.json_text import parsed, read_json
from ovam.output_files import write_bytes
from ovam.progress import pace
from ovam.run_folder import RECORD

RESULTS = "results.jsonl"

Make = Callable[["Item", Path, Progress], Mapping[str, Any]]
"""Makes an item in a folder, with `request` in its `result.json`, whose content it returns."""
Line = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One piece of work.

    Attributes:
        name: Name of its folder.
        source: What it is made of, for people.
        request: Hash of all that its files depend on; an item whose `result.json` has it is done.
    """

    name: str
    source: str
    request: str


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Items, and which of them are done already.

    Attributes:
        folder: Output folder.
        items: All items, in order.
        finished: Line of each item that was done before, by its name.
    """

    folder: Path
    items: tuple[Item, ...]
    finished: Mapping[str, Line]

    @property
    def waiting(self) -> tuple[Item, ...]:
        """Items that are still to be made."""
        return tuple(item for item in self.items if item.name not in self.finished)


def batch_of(items: Sequence[Item], folder: Path, *, overwrite: bool = False) -> Batch:
    """Look which items are done; with `overwrite`, none is.

    Raises:
        OptionError: two items would have the same folder.
    """
    places: dict[str, Item] = {}
    for item in items:
        other = places.setdefault(item.name.casefold(), item)
        if other is not item:
            raise OptionError(
                f"{other.source} and {item.source} would both be written to {folder / item.name}: expected different "
                "names; rename one of them, or give them different output folders"
            )
    done = {} if overwrite else {item.name: line for item in items if (line := _line_before(item, folder)) is not None}
    return Batch(folder=folder, items=tuple(items), finished=done)


def _line_before(item: Item, folder: Path) -> Line | None:
    """Return the line of an item that is done, or None."""
    try:
        record = read_json(folder / item.name / RECORD)
    except (OSError, ValueError):
        return None
    return _done(item, record) if isinstance(record, dict) and record.get("request") == item.request else None


def run_batch(
    batch: Batch, make: Make, progress: Progress, *, unit: str, message_of: Callable[[Exception], str] = str
) -> dict[str, Any]:
    """Make the items that are waiting, one after another, and write `results.jsonl`.

    An item's error is recorded, and the others go on. Lines of other items in an earlier `results.jsonl` stay.

    Args:
        batch: The items.
        make: Makes one.
        progress: Called with the number of items, how many are made a second, and the time that is left.
        unit: What the items are, in the plural.
        message_of: Returns an error's message.

    Returns:
        Numbers of all items, and of those that were made, skipped and failed; the folder, and the failures.
    """
    begun, path, lines = time.monotonic(), batch.folder / RESULTS, dict(batch.finished)
    others = [line for line in _lines_in(path) if line.get("item") not in {item.name for item in batch.items}]
    _write(path, [*others, *lines.values()])
    waiting = batch.waiting
    for made, item in enumerate(waiting):
        speed = pace(made, len(waiting), time.monotonic() - begun, unit)
        lines[item.name] = _made(item, batch.folder, make, _within(progress, speed, made, len(waiting)), message_of)
        with path.open("a", encoding="utf-8") as file:
            file.write(_text(lines[item.name]))
    _write(path, [*others, *(lines[item.name] for item in batch.items)])
    failures = [
        {"item": item.name, "source": item.source, "error": lines[item.name]["error"]["message"]}
        for item in waiting
        if lines[item.name]["status"] == "failed"
    ]
    return {
        "output_dir": str(batch.folder),
        "items": len(batch.items),
        "made": len(waiting) - len(failures),
        "skipped": len(batch.finished),
        "failed": len(failures),
        "results": RESULTS,
        "failures": failures,
        "seconds": round(time.monotonic() - begun, 2),
    }


def _made(item: Item, folder: Path, make: Make, progress: Progress, message_of: Callable[[Exception], str]) -> Line:
    """Make an item; return its line, also if it fails."""
    try:
        return _done(item, make(item, folder / item.name, progress))
    except Exception as error:  # whatever goes wrong with one item is no reason to leave out the others
        failure = {"type": type(error).__name__, "message": message_of(error)}
        return {"item": item.name, "source": item.source, "status": "failed", "error": failure}


def _done(item: Item, record: Mapping[str, Any]) -> Line:
    return {**record, "item": item.name, "source": item.source, "status": "done", "error": None}


def _within(progress: Progress, pace: str, made: int, total: int) -> Progress:
    """Return the progress of one item: its own work stands before the numbers of the batch."""

    def report(what: str, done: int, of: int) -> None:
        progress(f"{what}{f' {done}/{of}' if of else ''}; {pace}", made, total)

    report("starting", 0, 0)
    return report


def _lines_in(path: Path) -> Iterator[Line]:
    """Yield the lines of an earlier run; the last one may be cut short."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    for line in text.splitlines():
        try:
            found = parsed(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def _write(path: Path, lines: Sequence[Line]) -> None:
    write_bytes(path, "".join(map(_text, lines)).encode())


def _text(line: Line) -> str:
    return json.dumps(line) + "\n"
