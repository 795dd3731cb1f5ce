"""Files that are read: only those whose reading ends, and what a file is by its first bytes."""

import errno
from pathlib import Path


def is_text(name: object) -> bool:
    """Whether a name or a text is Unicode; bytes in a file's name that are no UTF-8 reach Python as lone surrogates.

    Files of safetensors can't be read or written under such a name.
    """
    return not any("\ud800" <= letter <= "\udfff" for letter in str(name))


def regular(path: Path) -> Path:
    """The path itself, unless it is a pipe, a socket or a device: opening or reading those may never end.

    Raises:
        OSError: it is one. A file that is missing, or a folder, is left to whoever opens it.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")
    return path


def is_tensor_file(path: Path) -> bool:
    """Whether a file begins as safetensors does: a header's length that fits into the file, and a JSON object.

    A picture's ninth byte may be "{" as well, such as that of a GIF 123 pixels high.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        begin = file.read(9)
    length = int.from_bytes(begin[:8], "little")
    return begin[8:] == b"{" and 8 + length <= path.stat().st_size
