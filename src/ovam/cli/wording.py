"""Errors in the words of the command line: the library names its arguments as Python does."""

import re
from collections.abc import Mapping
from typing import Any

from ovam.errors import CaptureTooLargeError, OvamError

_SMALLER = (
    "expected less, by --preset small, --capture-dtype int8, --blocks 16, --steps 0,5,10, or more room, by --disk "
    "FOLDER or a higher --limit-gib; `ovam plan` tells what each block takes"
)
_VALUE = r"""(?:\[[^\]]*\]|\([^)]*\)|'[^']*'|"[^"]*"|\.\.\.|[^\s,;:()]+)"""
_PHRASES = (
    (r"trace\.maps\(\[(?P<words>[^\]]*)\]\)", r"--words \g<words>"),
    (
        r"ask by position, maps\[.*",
        "leave --words out to have a map of each, or write another prompt, in which it stands once",
    ),
    (r"load (?:it|one) with (?:Trace|ovam)\.load\([^)]*\)(?:, where pipe is [^;]*)?", "name one with --model"),
    (r"(?:trace|tokens)\.save\(\.\.\.\) or ", ""),
    (r"or write it again with trace\.save\(\.\.\.\)", "or generate it again"),
    (r"Trace\.load\([^)]*\)", "--model"),
    (r", with model=\.\.\. \(--model on the command line\)", ", with --model"),
    (r"capture with \w+=\S+ \((--[\w-]+) on the command line\)", r"generate it again with \1"),
    (r" \(on the command line --[\w-]+\)", ""),
    (r"capture with (?:steps|blocks|guidance)=.*", "generate it again with what is to be asked"),
)
"""What has no option to stand for it, and how the command line says it."""


def in_one_line(error: Exception, options: Mapping[str, str]) -> str:
    """Message of an error, without what steers terminals; one that was not foreseen comes with its class.

    Args:
        error: What was raised.
        options: By the name of a parameter, its option, as `--limit-gib`.
    """
    message = "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(error).split()))
    if isinstance(error, CaptureTooLargeError):
        return f"{re.split(' There are three ways out| or dtype=', message)[0].rstrip('.,')}: {_SMALLER}"
    if isinstance(error, OvamError):
        return as_typed(message, options)
    return f"{type(error).__name__}: {message or 'no message'} (--debug shows where it comes from)"


def as_typed(message: str, options: Mapping[str, str]) -> str:
    """A message of the library as for somebody who types options.

    Example:
        >>> as_typed("steps=[0, 99]: expected `blocks`, for example ['a', 'b']", {"steps": "--steps"})
        '--steps 0,99: expected `blocks`, for example "a, b"'
    """
    for pattern, typed in _PHRASES:
        message = re.sub(pattern, typed, message)

    def option(found: re.Match[str]) -> str:
        return f"{options[found['name']]} {_plain(found['value'])}".rstrip()

    names = "|".join(map(re.escape, options))
    message = re.sub(rf"(?<![\w./-])(?P<name>{names})=(?P<value>{_VALUE})", option, message)
    long = "|".join(name for name in options if "_" in name) or names  # such as num_images, which is no English
    message = re.sub(rf"`(?P<name>{names})`", lambda found: options[found["name"]], message)
    message = re.sub(rf"\b(?P<name>{long})\b", lambda found: options[found["name"]], message)
    message = re.sub(r"\btorch\.(?=(?:b?float|int)\d)", "", message)
    return re.sub(r"\[('[^\]]*')\]", lambda found: f'"{found[1].replace(chr(39), "")}"', message)


def _plain(value: str) -> str:
    """A value as it is typed: no quotes where there is no blank, no brackets, no name of a library."""
    if value in ("True", "..."):
        return ""
    if value[:1] in "[(":
        return re.sub(r"\s*,\s*", ",", value[1:-1].strip(" ,")).replace("'", "")
    value = value.removeprefix("torch.")
    if value[:1] in "'\"":
        inner = value[1:-1]
        return inner if inner and not re.search(r"\s", inner) else f'"{inner}"'
    return value


def options_of(command: Any) -> dict[str, str]:
    """Of a command and those below it: by a parameter's name its longest option."""
    found = {
        parameter.name: max(parameter.opts, key=len)
        for parameter in command.params
        if any(each.startswith("--") for each in parameter.opts)
    }
    for below in getattr(command, "commands", {}).values():
        found |= options_of(below)
    return found
