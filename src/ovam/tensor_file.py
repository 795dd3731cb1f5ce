"""Files of the project's own: safetensors with one JSON header that names the format. Never pickle."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ovam.errors import OptionError, OvamError
from ovam.json_text import is_text
from ovam.partial import partial_folder

_MOST_HEADER = 2**24
"""Letters of a header. That of a trace of 57 blocks and 50 calls has 15,000; beyond that, numbers are what is large."""

_LONGEST_NAME = 255  # bytes, in all usual file systems


@dataclass(frozen=True)
class Format:
    """A kind of file, and its words in error messages.

    Attributes:
        name: What the header calls it.
        version: Newest one that is read.
        kind: What such a file is.
        writers: What writes one.
        advice: What to do with a file that can't be read.
        error: Raised for files that are not as they should be.
    """

    name: str
    version: int
    kind: str
    writers: str
    advice: str
    error: type[OvamError]


def write_file(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor], form: Format) -> None:
    """Write a file; it appears whole or not at all, and equal contents give equal bytes.

    Raises:
        The format's error: the folder is not there, or the file can't be written to it.
    """
    _check_name(path)
    check_writable(path, form)
    header_text = json.dumps(header, sort_keys=True)
    if len(header_text) > _MOST_HEADER or not is_text(header):
        raise form.error(
            f"{path} can't be written: its header has {len(header_text)} characters, expected at most {_MOST_HEADER}, "
            "all valid Unicode; shorten the texts that were given"
        )
    try:
        with replacing(path) as temporary:
            # one metadata entry only: safetensors writes several in an order that changes from run to run
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, {"ovam": header_text})
    except (OSError, SafetensorError) as error:
        raise form.error(
            f"{path} can't be written ({error}): expected a folder with room that may be written to; a file of that "
            "name is as it was before"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a new file to write; once it is written it replaces this one, and after an error it is removed.

    Several processes may write one file at the same time: the one that ends last wins. A symbolic link stays, and the
    file that it leads to is replaced.

    Raises:
        OptionError: something that is not a file has this name, such as a device or a pipe, which would be lost.
    """
    _check_name(path)
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise OptionError(f"{path} can't be written, it is there but is not a file: expected a file or a new name")
    with partial_folder(path.parent) as folder:
        temporary = folder / "file"
        temporary.touch()
        mode = temporary.stat().st_mode  # an ordinary new file's, where safetensors lets the owner alone read its files
        yield temporary
        temporary.chmod(mode)
        temporary.replace(path)


def _check_name(path: Path) -> None:
    """Raises OptionError where no file can have this name."""
    if "\0" in str(path) or len(os.fsencode(path.name)) > _LONGEST_NAME:
        raise OptionError(
            f"{str(path)[:80]!r}... can't be a file's name: expected at most {_LONGEST_NAME} bytes and no NUL"
        )


def check_writable(path: Path, form: Format) -> None:
    """Check beforehand that a file can be written; a full disk is not noticed.

    Raises:
        The format's error: it is a folder, its folder is not there, or may not be written to.
    """
    if path.is_dir():
        raise form.error(f"{path} can't be written: expected the name of a file, but it is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise form.error(f"{path} can't be written, it is there but is not a file: expected a file or a new name")
    if not path.parent.is_dir():
        raise form.error(f"{path} can't be written: expected the folder {path.parent} to be there; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise form.error(f"{path} can't be written: expected a folder that you may write to; choose another one")


def read_file(path: Path, form: Format) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors, on the CPU.

    Raises:
        The format's error: the file is missing, damaged, of another format or of a newer version.
    """
    with _opened(path, form) as file:
        header = _header(path, file.metadata() or {}, form)
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping


def read_header(path: Path, form: Format) -> dict[str, Any]:
    """Header alone, without the tensors.

    Raises:
        The format's error: the file is missing, damaged, of another format or of a newer version.
    """
    with _opened(path, form) as file:
        return _header(path, file.metadata() or {}, form)


@contextmanager
def _opened(path: Path, form: Format) -> Iterator[Any]:
    if not os.path.isfile(path):  # noqa: PTH113, Path.is_file raises where a name is too long
        raise form.error(f"{path} is not a file: expected {form.kind} that {form.writers} wrote")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except OSError as error:
        raise form.error(f"{path} can't be read ({error}): expected a file that you may read") from error
    except SafetensorError as error:
        raise form.error(
            f"{path} is not a readable safetensors file ({error}): it is damaged, cut short, or of another kind; "
            f"{form.advice}"
        ) from error


def _header(path: Path, metadata: Mapping[str, str], form: Format) -> dict[str, Any]:
    header_text = metadata.get("ovam", "null")
    if len(header_text) > _MOST_HEADER:
        raise form.error(
            f"{path} has a header of {len(header_text)} letters: expected {_MOST_HEADER} at most, "
            f"as {form.writers} wrote"
        )
    try:
        header = json.loads(header_text)
    except (ValueError, RecursionError):  # no JSON, or nested and numbered beyond what is read
        header = None
    if not isinstance(header, dict) or header.get("format") != form.name:
        stated = f"of format {header.get('format')!r}" if isinstance(header, dict) else "without a header 'ovam'"
        raise form.error(
            f"{path} is a safetensors file but not {form.kind}, {stated}: expected one of format {form.name!r}, "
            f"which {form.writers} wrote"
        )
    found = header.get("format_version")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise form.error(
            f"{path} is {form.kind} of format version {found!r}: expected a number from 1 on; "
            f"give a file that {form.writers} wrote"
        )
    if found > form.version:
        raise form.error(
            f"{path} is {form.kind} of format {found}, newer than the {form.version} that this version of ovam reads: "
            "update ovam"
        )
    if not is_text(header):
        raise form.error(f"{path} is {form.kind} whose header has characters that are not valid Unicode: {form.advice}")
    return header


def fingerprint(tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> str:
    """Hash of named weights, the same for float32 and float16 copies of one model: 16 hexadecimal digits.

    Args:
        tensors: The weights.
        dtype: Type to round them to first; bfloat16 gives the hash of the model's bfloat16 copy.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        rounded = tensors[name].detach().to(dtype) if dtype == torch.bfloat16 else tensors[name].detach()
        digest.update(rounded.to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def type_name(dtype: torch.dtype) -> str:
    """Name of a type as files have it, such as float16."""
    return str(dtype).removeprefix("torch.")
