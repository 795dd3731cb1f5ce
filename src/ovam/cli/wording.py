"""Rewrite error messages for the command line: options instead of the library's Python arguments."""

import re
from collections.abc import Mapping
from typing import Any

from ovam.errors import CaptureTooLargeError, OvamError

_SMALLER = (
    "capture less with --preset small, --capture-dtype int8, --blocks 16 or --steps 0,5,10, or make room with --disk "
    "FOLDER or a higher --limit-gib; `ovam plan` shows the size of each block"
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
    (
        r"these maps have no self-attention, which refining needs: use .*",
        "the trace has no self-attention, or --steps leaves it out, so --refine can't be used: generate it again with "
        "--self-attention; an image file that is given instead gets it by itself",
    ),
    (
        r"(a CRF) with .* needs the picture, (and the run) of these maps (.*?): run the pipeline .*",
        r"\1 needs the picture, \2 of this trace \3: leave --crf out",
    ),
    (r"\bmethod='(noise|inversion|clean)'", r"--encode-method \1"),
    (
        r"use ovam\.capture\(pipe, \*\*ovam\.methods\.by_name\([^)]*\)\.requires\)(, and keep all steps)?",
        "give an image file, which is looked at anew, or capture the run in Python with what the method requires",
    ),
    (r"capture with \w+=\S+ \((--[\w-]+) on the command line\)", r"generate it again with \1"),
    (r" \(on the command line --[\w-]+\)", ""),
    (
        r"capture with ovam\.capture\(pipe, features=True\), or use ovam\.encode\(.*\)",
        "give an image file, which is looked at anew, or capture the run in Python with features=True",
    ),
    (r"name the file, weights=FILE", "name the file with --weights"),
    (r"capture with (?:steps|blocks|guidance)=.*", "generate it again with the steps, blocks or halves that you need"),
)
"""Phrases for Python code that are not just an argument's name, and their replacements on the command line."""


def in_one_line(error: Exception, options: Mapping[str, str]) -> str:
    """Return an error's message on one line, without control characters; unexpected errors include their class.

    Args:
        error: The error.
        options: Options by parameter name, such as `--limit-gib`.
    """
    message = "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(error).split()))
    if isinstance(error, CaptureTooLargeError):
        return f"{re.split(' There are three ways out| or dtype=', message)[0].rstrip('.,')}: {_SMALLER}"
    if isinstance(error, OvamError):
        return as_typed(message, options)
    return f"{type(error).__name__}: {message or 'no message'} (--debug shows where it comes from)"


def as_typed(message: str, options: Mapping[str, str]) -> str:
    """Return a message of the library with options in place of Python arguments.

    Example:
        >>> as_typed("steps=[0, 99]: expected `blocks`, for example ['a', 'b']", {"steps": "--steps"})
        '--steps 0,99: expected `blocks`, for example "a, b"'
    """
    for pattern, typed in _PHRASES:
        message = re.sub(pattern, typed, message)

    def option(found: re.Match[str]) -> str:
        typed = options[found["name"]]
        if found["value"] == "False":
            return typed.replace("--", "--no-", 1)
        return f"{typed} {_plain(found['value'])}".rstrip()

    names = "|".join(map(re.escape, options))
    message = re.sub(rf"(?<![\w./-])(?P<name>{names})=(?P<value>{_VALUE})", option, message)
    long = "|".join(name for name in options if "_" in name) or names  # such as num_images, never an English word
    message = re.sub(rf"`(?P<name>{names})`", lambda found: options[found["name"]], message)
    message = re.sub(rf"\b(?P<name>{long})\b", lambda found: options[found["name"]], message)
    message = re.sub(r"\btorch\.(?=(?:b?float|int)\d)", "", message)
    return re.sub(r"\[('[^\]]*')\]", lambda found: f'"{found[1].replace(chr(39), "")}"', message)


def _plain(value: str) -> str:
    """Return a value as typed on the command line: no brackets, no library name, quotes only around spaces."""
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
    """Return the first long option of each parameter, by its name, for a command and its subcommands."""
    long = {parameter.name: [each for each in parameter.opts if each.startswith("--")] for parameter in command.params}
    found = {name: options[0] for name, options in long.items() if options}
    for below in getattr(command, "commands", {}).values():
        found |= options_of(below)
    return found
