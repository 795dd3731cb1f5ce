"""Read and write JSON; all that can't be read or shown raises `ValueError`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        OSError: the file can't be read.
        ValueError: the file is not JSON, see `parsed`.
    """
    return parsed(path.read_text(encoding="utf-8"))


def parsed(text: str) -> Any:
    """Return the content of a JSON text.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or has characters that are not valid Unicode.
    """
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not is_text(found):
        raise ValueError("it has characters that are not valid Unicode")
    return found


def is_text(value: Any) -> bool:
    """Return whether all texts in a value are valid Unicode; faulty programs write lone surrogates."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def json_text(content: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return readable JSON; bytes of a file name that are not UTF-8 become escapes, which Python can read back."""
    return json.dumps(content, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
