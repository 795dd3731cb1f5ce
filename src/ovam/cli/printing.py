"""Print to standard output, which may be closed, full, or unable to encode every letter."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ovam.errors import OvamError
from ovam.json_text import json_text


@contextmanager
def printing(made: str | None = None) -> Iterator[None]:
    """Flush standard output after printing, and turn its errors into one line. A closed pipe passes unchanged.

    Args:
        made: Where the command's files are, for the message.

    Raises:
        OvamError: standard output is closed, or can't be written to.
    """
    if sys.stdout is None:
        raise OvamError(unprintable(None, made))
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OvamError(unprintable(error, made)) from error


def unprintable(error: OSError | None, made: str | None = None) -> str:
    """Return the message; discards buffered output, which Python would otherwise try to write again on exit."""
    if error is not None:
        with contextlib.suppress(OSError, ValueError):  # standard output may be no real file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    reason = "it is closed" if error is None else error.strerror or str(error)
    files = f"; the command's files are complete, in {made}" if made else ""
    return f"standard output can't be written to ({reason}): expected one that is open and not full{files}"


def write_json(content: Mapping[str, Any]) -> None:
    """Print JSON; if standard output can't encode a letter, print escapes."""
    text = json_text(content)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(content, indent=2)
    sys.stdout.write(text + "\n")
