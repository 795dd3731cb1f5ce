"""Scores that are made after generation, kept beside the items: `scores/clip.jsonl` has a line for each item."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ovam.dataset.item import Item
from ovam.dataset.manifest import text_of
from ovam.dataset.schema import SCORE_HEAD, SCORE_LINE, check_content
from ovam.errors import DatasetError
from ovam.json_text import parsed

SCORES = "scores"


def score_file(folder: Path, name: str) -> Path:
    """Return the file of a score."""
    return folder / SCORES / f"{name}.jsonl"


def head_of(name: str, model: str, weights: str) -> str:
    """Return the first line of a score's file.

    Args:
        name: Name of the score.
        model: Name of the model that makes it.
        weights: Hash of its weights.
    """
    return text_of({"score": name, "model": model, "hash": weights})


def read_scores(path: Path) -> tuple[dict[str, Any], dict[int, dict[str, float]]]:
    """Read a score's file; a last line that was cut short is left out.

    Returns:
        The content of the first line, and the values by class of each item.

    Raises:
        DatasetError: the file is damaged.
    """
    head, values = dict[str, Any](), dict[int, dict[str, float]]()
    for place, line in enumerate(path.read_bytes().split(b"\n")[:-1]):
        try:
            found = parsed(line.decode())
        except ValueError as error:
            raise DatasetError(f"{path}, line {place + 1}, is damaged ({error}): delete it and score again") from error
        check_content(found, SCORE_LINE if place else SCORE_HEAD, path)
        if place:
            values[found["index"]] = found["values"]
        else:
            head = found
    return head, values


def with_scores(folder: Path, items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Return items with those kept scores that all of them have.

    Raises:
        DatasetError: a file of scores is damaged.
    """
    for path in sorted((folder / SCORES).glob("*.jsonl")):
        _, values = read_scores(path)
        if all(_fits(item, values.get(item.index)) for item in items):
            items = tuple(replace(item, scores={**item.scores, path.stem: values[item.index]}) for item in items)
    return items


def _fits(item: Item, values: Mapping[str, float] | None) -> bool:
    return values is not None and set(values) == set(item.classes)
