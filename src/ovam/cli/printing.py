"""Standard output, which may be closed, full, or of an encoding that has not every letter."""

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
    """Around printing: it is done at the end, or told in one line why not. A reader that has gone is no error here.

    Args:
        made: Where the command's files are, which are whole.

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
    """Why nothing can be printed; what waits to be is given up, or Python would try and fail again at its end."""
    if error is not None:
        with contextlib.suppress(OSError, ValueError):  # no file behind it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    reason = "it is closed" if error is None else error.strerror or str(error)
    files = f"; what the command made is whole, in {made}" if made else ""
    return f"standard output can't be written to ({reason}): expected one that is open and has room{files}"


def write_json(content: Mapping[str, Any]) -> None:
    """Print JSON in letters that standard output has, others as escapes."""
    text = json_text(content)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(content, indent=2)
    sys.stdout.write(text + "\n")
