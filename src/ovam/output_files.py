"""Write output files: with safe names, and each file whole or not at all."""

import io
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovam.errors import OptionError
from ovam.json_text import json_text
from ovam.stored_picture import encoded
from ovam.tensor_file import replacing

_LONGEST = 60  # characters; at four bytes each, still within the limit of file systems


def safe_names(words: Sequence[str]) -> list[str]:
    """Return a different file name for each word; they differ also on file systems that ignore case.

    Letters and digits of any script stay. Everything else becomes a dash, so no name leads out of its folder or is
    hidden.

    Example:
        >>> safe_names(["hot dog", "hot-dog", "../etc"])
        ['hot-dog', 'hot-dog-2', 'etc']
    """
    names = list[str]()
    taken = set[str]()
    for word in words:
        plain = unicodedata.normalize("NFKC", word)
        kept = "".join(letter if letter.isalnum() else "-" for letter in plain)
        name = first = "-".join(part for part in kept.split("-") if part)[:_LONGEST] or "word"
        count = 1
        while name.casefold() in taken:
            count += 1
            name = f"{first}-{count}"
        taken.add(name.casefold())
        names.append(name)
    return names


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it; missing folders are created.

    Raises:
        OptionError: the file can't be written, for example because the disk is full; an earlier file is unchanged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise OptionError(
            f"{path} can't be written ({error.strerror or error}): expected a writable output folder with free space; "
            "an earlier file is unchanged"
        ) from error


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a picture as PNG; equal pictures give equal bytes."""
    write_bytes(path, encoded(picture))


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as `numpy.load` reads it without pickle."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write a readable JSON file."""
    write_bytes(path, (json_text(content) + "\n").encode())
