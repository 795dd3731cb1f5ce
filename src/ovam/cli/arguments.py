"""Convert typed arguments to the functions' arguments: lists, token files, types, options left out."""

import csv
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer

from ovam.cli.parameters import DType, Storage
from ovam.errors import OptionError
from ovam.input_file import is_tensor_file
from ovam.prompt import list_of_words

_LONGEST_NAME = 200  # maximum number of characters of a block's name


def words_of(text: str) -> list[str]:
    """Split a text at commas into words and phrases; double quotes protect a comma."""
    entries = next(csv.reader([" ".join(text.split())], skipinitialspace=True), [])
    return [entry.strip() for entry in entries if entry.strip()]


def blocks_of(text: str | None) -> list[str | int | tuple[int, int]] | None:
    """Read grid heights (16), grids (16x24) and block names, separated by commas."""
    if text is None:
        return None
    blocks: list[str | int | tuple[int, int]] = []
    for entry in words_of(text):
        if len(entry) > _LONGEST_NAME or re.fullmatch(r"[\dx]*\d{6}[\dx]*", entry):
            raise typer.BadParameter(
                f"{entry[:20]!r}...: expected grid heights (16), grids (16x24), or names of blocks",
                param_hint="--blocks",
            )
        numbers = [int(number) for number in entry.split("x")] if re.fullmatch(r"\d+(x\d+)?", entry) else []
        blocks.append(entry if not numbers else numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1]))
    return blocks


def steps_of(text: str | None, option: str = "--steps") -> list[int] | None:
    """Read step numbers and ranges (both ends included), separated by commas; errors name the option."""
    if text is None:
        return None
    steps: list[int] = []
    for entry in words_of(text):
        bounds = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", entry)
        if bounds is None:
            shown = entry if len(entry) <= 40 else f"{entry[:20]}..."
            raise typer.BadParameter(f"{shown!r}: expected numbers below 100000, such as 0,5,10-19", param_hint=option)
        first = int(bounds[1])
        last = int(bounds[2] or first)
        if last < first:
            raise typer.BadParameter(f"{entry!r}: expected the lower number first, {last}-{first}", param_hint=option)
        steps += range(first, last + 1)
    return steps


def words_beside_tokens(words: str | None, tokens: list[Path] | None) -> list[str]:
    """Return the words, which may be left out if tokens are given."""
    if words is None and not tokens:
        raise typer.BadParameter("expected words, or --tokens with a file, or both", param_hint="--words")
    return listed_words(words)


def listed_words(words: str | None) -> list[str]:
    """Return the words of the option; an empty list if it was left out.

    Raises:
        EmptyWordsError: the option was given without a word.
    """
    return [] if words is None else list(list_of_words(words_of(words)))


def with_tokens(words: list[str], files: list[Path] | None) -> list[Any]:
    """Return the words, then the tokens of files."""
    if not files:
        return list(words)
    from ovam.tokens.token_set import TokenSet

    return [*words, *(TokenSet.load(file) for file in files)]


def torch_type(named: DType | Storage | None) -> Any:
    """Return torch's type of this name."""
    import torch

    return None if named is None else getattr(torch, named.value)


def refine_of(refining: Mapping[str, Any]) -> dict[str, Any]:
    """Return `refine` for the options of masks; a method or a number of products includes it."""
    from ovam.refine.options import RefineOptions

    how = {name: value for name, value in refining.items() if name != "refine"}
    return {"refine": RefineOptions(**how)} if refining else {}


def method_alone(method: StrEnum | None, options: Mapping[str, Any]) -> None:
    """Raise OptionError if options of the library's own stages were given beside a method.

    Args:
        method: The method, if there is one.
        options: Given options, by the names of the command's parameters.
    """
    others = {name: value for name, value in options.items() if name not in ("threshold", "crf")}
    if method is not None and others:
        named = ", ".join(f"{name}={_shown(value)}" for name, value in others.items())
        raise OptionError(
            f"{named} with method={method.value!r}: a method has maps, refinement and masks of its own, and takes "
            f"`threshold` and `crf` at most: leave {'it' if len(others) == 1 else 'them'} out, or leave out the method"
        )


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given, so that the others keep the function's defaults."""
    return {name: value for name, value in options.items() if value is not None}


def refuse_for_traces(sources: list[Path], image_options: Mapping[str, Any]) -> None:
    """Raise OptionError if an option for images was given, and there is no image."""
    given_ones = given(**image_options)
    if not given_ones or not all(path.suffix == ".safetensors" or is_tensor_file(path) for path in sources):
        return
    source = sources[0]
    named = ", ".join(f"{name}={_shown(value)}" for name, value in given_ones.items())
    raise OptionError(
        f"{named}: expected only with an image file, which the model encodes, but {source} is a trace, whose run is "
        f"over; leave {'it' if len(given_ones) == 1 else 'them'} out, or give an image file"
    )


def _shown(value: Any) -> str:
    return value.value if isinstance(value, StrEnum) else repr(value)
