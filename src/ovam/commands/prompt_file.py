"""Read a file of prompts: plain text, CSV or JSON lines. This module imports nothing heavy."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovam.errors import OptionError
from ovam.input_file import is_text, regular
from ovam.json_text import parsed

SEEDS = 2**64
"""Number of possible seeds."""
_COLUMNS = ("prompt", "seed", "words", "negative_prompt")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One entry of a file of prompts; None means that the entry does not have this field.

    Attributes:
        text: What to generate.
        seed: Seed of its first image.
        words: Words to map and segment.
        negative: What to avoid.
    """

    text: str
    seed: int | None = None
    words: tuple[str, ...] | None = None
    negative: str | None = None


def read_prompts(path: Path, split: Callable[[str], list[str]]) -> tuple[Prompt, ...]:
    """Read a file of prompts: `.csv`, `.jsonl` or `.ndjson`, or plain text with one prompt a line.

    In plain text, empty lines and lines that begin with # are skipped. CSV needs a head with `prompt`, and may have
    `seed`, `words` and `negative_prompt`. JSON lines have the same names; `words` may be a list.

    Args:
        path: The file, in UTF-8.
        split: Splits a text into words at its commas.

    Raises:
        OptionError: the file can't be read, has no prompt, or an entry is not as expected; its line is named.
    """
    try:
        text = regular(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise OptionError(f"{path} can't be read ({reason}): expected a file of prompts") from error
    rows = {".csv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows}.get(path.suffix.lower(), _text_rows)
    prompts = tuple(_prompt(row, where, split) for where, row in rows(path, text))
    if not prompts:
        raise OptionError(f"{path} has no prompt: expected at least one")
    return prompts


def _text_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield f"{path}, line {number}", {"prompt": line.strip()}


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        if not names:
            return
        reader.fieldnames = names
        _check_names(f"{path}, its first line", names)
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise OptionError(f"{where} has more fields than the first line: expected quotes around commas")
            yield where, {name: value for name, value in row.items() if value is not None and value.strip()}
    except csv.Error as error:
        raise OptionError(f"{path}, line {reader.line_num} is no CSV ({error}): expected fields with commas") from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = parsed(line)
        except ValueError as error:
            raise OptionError(f'{where} is no JSON: expected an object such as {{"prompt": "a cat"}}') from error
        if not isinstance(row, dict):
            raise OptionError(f'{where} is no JSON object: expected one such as {{"prompt": "a cat"}}')
        _check_names(where, list(row))
        yield where, {name: value for name, value in row.items() if value is not None}


def _check_names(where: str, names: list[str]) -> None:
    unknown = [name for name in names if name not in _COLUMNS]
    if "prompt" not in names or unknown or len(set(names)) < len(names):
        raise OptionError(
            f"{where} has {', '.join(map(repr, names)) or 'nothing'}: expected 'prompt' and, if needed, "
            f"{', '.join(map(repr, _COLUMNS[1:]))}, each once, and nothing else"
        )


def _prompt(row: Mapping[str, Any], where: str, split: Callable[[str], list[str]]) -> Prompt:
    text, negative = row.get("prompt", ""), row.get("negative_prompt")
    if not isinstance(text, str) or not text.strip():
        raise OptionError(f"{where} has no prompt: expected a text that says what to generate")
    if not isinstance(negative, str | None):
        raise OptionError(f"{where}: negative_prompt {negative!r} is no text")
    if not is_text(row):
        raise OptionError(f"{where} has characters that are not valid Unicode: expected text in UTF-8")
    return Prompt(text=text, seed=_seed(row.get("seed"), where), words=_words(row, where, split), negative=negative)


def _seed(value: Any, where: str) -> int | None:
    if value is None:
        return None
    typed = isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value.strip()) <= 20
    found = int(value) if typed else value
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < SEEDS:
        raise OptionError(f"{where}: seed {str(value)[:40]!r}: expected a whole number from 0 to {SEEDS - 1}")
    return found


def _words(row: Mapping[str, Any], where: str, split: Callable[[str], list[str]]) -> tuple[str, ...] | None:
    value = row.get("words")
    if value is None:
        return None
    found = split(value) if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(word, str) and word.strip() for word in found):
        raise OptionError(f"{where}: words {str(value)[:40]!r}: expected words with commas, or a list of words")
    return tuple(found)
