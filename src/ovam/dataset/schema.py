"""What the JSON files of a data set may hold; checked before anything is used."""

from pathlib import Path
from typing import Any

from ovam.dataset.sections import IDS
from ovam.errors import DatasetError
from ovam.header import Check, by_name, listed, number, record, text, whole

FORMAT = 1
"""Newest format of `dataset.json` that is read."""

_MOST = 10**12
_SCORE = number(-1e30, 1e30)
_NAME = text(".+", "a name")
_SPLIT = text("train|validation|test", "train, validation or test")


def _score(value: Any, where: str) -> None:
    (by_name(_SCORE) if isinstance(value, dict) else _SCORE)(value, where)


_FILE = record({"file": text(), "sha256": text("[0-9a-f]{64}", "a SHA-256")})
_CLASS = record({"name": _NAME, "id": whole(1, IDS), "words": listed(_NAME, 1), "against": listed(_NAME)})


def _view(value: Any, where: str) -> None:
    record({}, {"dropped": by_name(whole(0, _MOST)), "before": _view})(value, where)


ABOUT_FILE = record(
    {
        "format": whole(1, FORMAT),
        "name": text(),
        "ovam": text(),
        "model": record({"name": text(), "hash": text()}),
        "recipe": text(),
        "classes": listed(_CLASS, 1),
        "ignore": whole(0, 255),
        "size": listed(whole(1, 10**6), 2, 2),
    },
    {"licence": text(), "defaults": text(), "view": _view},
)
"""`dataset.json`."""

ITEM_FILE = record(
    {
        "index": whole(0, _MOST),
        "unit": whole(0, _MOST),
        "seed": whole(0, 2**64 - 1),
        "prompt": text(),
        "classes": listed(_NAME, 1),
        "split": _SPLIT,
        "image": _FILE,
        "mask": _FILE,
        "areas": by_name(number(0, 1)),
        "ignored": number(0, 1),
        "scores": by_name(_score),
        "hash": text("[0-9a-f]{32}", "32 hexadecimal digits"),
    }
)
"""`items/000123.json`."""

ROW = record({"file_name": text(), "mask_file_name": text(), "split": _SPLIT, "index": whole(0, _MOST)})
"""A line of `metadata.jsonl`."""

SCORE_HEAD = record({"score": text(), "model": text(), "hash": text()})
"""The first line of `scores/clip.jsonl`."""

SCORE_LINE = record({"index": whole(0, _MOST), "values": by_name(_SCORE)})
"""Another line of it."""


def check_content(content: Any, check: Check, path: Path) -> None:
    """Check what a file of a data set holds.

    Raises:
        DatasetError: it is not as expected.
    """
    try:
        check(content, path.name)
    except ValueError as error:
        raise DatasetError(f"{path} is damaged: {error}") from error
