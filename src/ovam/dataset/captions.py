"""Read captions: plain text, CSV, JSON lines, or COCO's JSON; find the classes that each one names."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovam.dataset.classes import ClassEntry
from ovam.errors import RecipeError
from ovam.input_file import is_text, regular
from ovam.json_text import parsed


@dataclass(frozen=True)
class Caption:
    """A prompt of a file.

    Attributes:
        text: The prompt.
        words: For each class that it names, in the order of the recipe's classes, the word that it uses.
        until: Number of letters up to the end of these words.
    """

    text: str
    words: Mapping[str, str]
    until: int = 0


def read_captions(path: Path, classes: Sequence[ClassEntry], *, skip: bool) -> tuple[Caption, ...]:
    """Read a file of captions.

    CSV and JSON lines have `prompt` or `caption`, and may have `classes`: the names that count in this prompt, with
    commas or as a list; each must be named in the prompt by one of its words. Without, all classes count that the
    prompt names.

    Args:
        path: `.txt` with one caption a line, `.csv`, `.jsonl` or `.ndjson`, or `.json` in the form of COCO's captions.
        classes: The recipe's classes.
        skip: Whether captions that name no class are left out.

    Raises:
        RecipeError: the file can't be read or is not as expected; a caption names no class, or not one that it should;
            or no caption is left.
    """
    try:
        text = regular(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise RecipeError(f"{path} can't be read ({reason}): expected a file of captions") from error
    kinds = {".csv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows, ".json": _coco_rows}
    names = Names.of(classes)
    captions, skipped = list[Caption](), 0
    for where, row in kinds.get(path.suffix.lower(), _text_rows)(path, text):
        caption = _caption(row, where, names)
        if caption.words:
            captions.append(caption)
        elif skip:
            skipped += 1
        else:
            raise RecipeError(
                f"{where}: {caption.text[:60]!r} names no class: expected a word of one of {_some(classes)}; "
                'without_class="skip" leaves such captions out'
            )
    if not captions:
        raise RecipeError(
            f"{path} has no caption that names a class ({skipped} without one): expected words of {_some(classes)}"
        )
    return tuple(captions)


def _some(classes: Sequence[ClassEntry]) -> str:
    names = [one.name for one in classes]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


@dataclass(frozen=True)
class Names:
    """The words of all classes, as one pattern: a "hot dog" is no dog.

    Attributes:
        classes: Names of the classes.
        owners: Class of each group of the pattern.
        pattern: Whole words, also in the plural; longer words come first.
    """

    classes: tuple[str, ...]
    owners: tuple[str, ...]
    pattern: re.Pattern[str]

    @staticmethod
    def of(classes: Sequence[ClassEntry]) -> "Names":
        """Return the words of classes."""
        pairs = [(word, one.name) for one in classes for word in one.words]
        pairs.sort(key=lambda pair: len(pair[0]), reverse=True)
        joined = "|".join(rf"({re.escape(word)}(?:e?s)?)" for word, _ in pairs)
        pattern = re.compile(rf"(?<!\w)(?:{joined})(?!\w)", re.IGNORECASE)
        return Names(tuple(one.name for one in classes), tuple(name for _, name in pairs), pattern)

    def named_in(self, text: str) -> dict[str, re.Match[str]]:
        """Return for each class that a text names, in the order of the classes, where it does so first."""
        found = dict[str, re.Match[str]]()
        for match in self.pattern.finditer(text):
            assert match.lastindex is not None
            found.setdefault(self.owners[match.lastindex - 1], match)
        return {name: found[name] for name in self.classes if name in found}


def _caption(row: Mapping[str, Any], where: str, names: Names) -> Caption:
    text = row.get("prompt", row.get("caption"))
    if not isinstance(text, str) or not text.strip() or not is_text(text):
        raise RecipeError(f"{where} has no prompt: expected a text")
    text = " ".join(text.split())
    named = names.named_in(text)
    wanted = _wanted(row.get("classes"), where)
    if wanted is None:
        return _of(text, named)
    for name in wanted:
        if name not in names.classes:
            raise RecipeError(f"{where}: class {name!r} is not in the recipe: expected some of its classes")
        if name not in named:
            raise RecipeError(
                f"{where}: {text[:60]!r} does not name its class {name!r}: expected one of its words in it"
            )
    return _of(text, {name: match for name, match in named.items() if name in wanted})


def _of(text: str, named: Mapping[str, re.Match[str]]) -> Caption:
    until = max((match.end() for match in named.values()), default=0)
    return Caption(text, {name: match.group() for name, match in named.items()}, until)


def _wanted(value: Any, where: str) -> list[str] | None:
    if value is None or value == "":
        return None
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise RecipeError(f"{where}: classes {str(value)[:40]!r}: expected names with commas, or a list of names")
    return names


def _text_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield f"{path}, line {number}", {"prompt": line}


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise RecipeError(f"{where} has more fields than the first line: expected quotes around commas")
            yield where, {str(name).strip(): value for name, value in row.items() if value}
    except csv.Error as error:
        raise RecipeError(f"{path}, line {reader.line_num} is no CSV ({error}): expected fields with commas") from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            row = _json(line, f"{path}, line {number}")
            if not isinstance(row, dict):
                raise RecipeError(f'{path}, line {number} is no JSON object: expected {{"prompt": "a dog"}}')
            yield f"{path}, line {number}", row


def _coco_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    table = _json(text, str(path))
    rows = table.get("annotations") if isinstance(table, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RecipeError(f"{path} has no list of annotations: expected the form of COCO's captions")
    for place, row in enumerate(rows):
        yield f"{path}, annotation {place}", {"caption": row.get("caption")}


def _json(text: str, where: str) -> Any:
    try:
        return parsed(text)
    except ValueError as error:
        raise RecipeError(f"{where} is no JSON ({error}): expected captions") from error
