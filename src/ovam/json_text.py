"""JSON as files have it: whatever can't be read or shown is one kind of error."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """What a file holds.

    Raises:
        OSError: it can't be read.
        ValueError: it is no JSON, see `parsed`.
    """
    return parsed(path.read_text(encoding="utf-8"))


def parsed(text: str) -> Any:
    """What a text holds.

    Raises:
        ValueError: it is no JSON, nested beyond what is read, or has halves of letters, which can't be shown.
    """
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not is_text(found):
        raise ValueError("it has broken letters")
    return found


def is_text(value: Any) -> bool:
    """Whether all texts in a value are of whole letters; broken programs cut them into halves."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def json_text(content: Mapping[str, Any] | Sequence[Any]) -> str:
    """Readable JSON; bytes of a file's name that are no UTF-8 stand as escapes, from which Python has them again."""
    return json.dumps(content, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
