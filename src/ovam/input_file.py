"""Checks of files before they are read: is it an ordinary file, and of which kind, by its first bytes?"""

import errno
from pathlib import Path


def is_text(name: object) -> bool:
    """Return whether a name or a text is valid Unicode.

    A file name may contain bytes that are not valid UTF-8; in Python they become lone surrogates. safetensors can't
    read or write files with such a name.
    """
    return not any("\ud800" <= letter <= "\udfff" for letter in str(name))


def regular(path: Path) -> Path:
    """Return the path, unless it is a pipe, a socket or a device: opening or reading those may never end.

    A path that is missing, or is a folder, is returned too; opening it raises its own error.

    Raises:
        OSError: it is a pipe, a socket or a device.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")
    return path


def is_tensor_file(path: Path) -> bool:
    """Whether a file begins as safetensors does: a header's length that fits into the file, and a JSON object.

    The ninth byte alone is not enough: it is "{" in some pictures too, for example in a GIF that is 123 pixels high.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        begin = file.read(9)
    length = int.from_bytes(begin[:8], "little")
    return begin[8:] == b"{" and 8 + length <= path.stat().st_size
