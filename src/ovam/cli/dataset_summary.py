"""Tables of what the commands of `ovam dataset` return."""

import shlex
from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from ovam.cli.tables import facts_table, line, table

_NEXT = "look at {0}/contact-sheet.png; then: ovam dataset filter {0} --output-dir FOLDER"


def dataset_shown(result: Mapping[str, Any]) -> list[Table | Text]:
    """Return what is shown of a result of `ovam dataset`."""
    kinds = {
        "dataset new": _new,
        "dataset plan": _plan,
        "dataset generate": _generated,
        "dataset score": _scored,
        "dataset filter": _filtered,
        "dataset check": _checked,
    }
    command = str(result["command"])
    return kinds[command](result) if command in kinds else _facts(result)


def _facts(result: Mapping[str, Any]) -> list[Table | Text]:
    left = ("command", "version")
    return facts_table({name: value for name, value in result.items() if name not in left and value is not None})


def _new(result: Mapping[str, Any]) -> list[Table | Text]:
    path = shlex.quote(result["output"])
    sentence = f"{path}: {result['images']} images of {len(result['classes'])} classes; edit it, then:"
    return [line(sentence), line(f"ovam dataset plan {path} --measure"), line(f"ovam dataset generate {path}")]


def _plan(result: Mapping[str, Any]) -> list[Table | Text]:
    rows = [
        [str(one["id"]), one["class"], ", ".join(one["words"]), "token" if one["token"] else "word", str(one["images"])]
        for one in result["classes"]
    ]
    sentence = f"{result['images']} images in {result['units']} units, {result['bytes'] / 2**20:.0f} MiB"
    if result["measured"]:
        sentence += f", {result['time']} at {result['images_a_second']} images/s"
    else:
        sentence += " as a rough estimate; --measure makes a unit, to tell bytes and time"
    prompts = [line(f"  {prompt}") for prompt in result["prompts"]]
    return [
        table(("number", "class", "words", "mask by", "images"), rows),
        line(sentence),
        line("first prompts:"),
        *prompts,
    ]


def _generated(result: Mapping[str, Any]) -> list[Table | Text]:
    numbers = (("made", result["made"]), ("skipped, as they are done", result["skipped"]), ("failed", result["failed"]))
    counts = ", ".join(f"{number} {what}" for what, number in numbers if number or what == "made")
    rows = [[one["source"], one["error"]] for one in result["failures"]]
    failed = [table(("failed", "error"), rows)] if rows else []
    folder = shlex.quote(result["output_dir"])
    after = _NEXT.format(folder) if result["complete"] else "other shards are not done yet"
    shared = ", ".join(f"{name} {count}" for name, count in result.get("workers", {}).items())
    by = [line(f"items by worker: {shared}")] if shared else []
    return [line(f"{result['items']} items: {counts}"), *by, *failed, line(f"in {folder}; {after}")]


def _scored(result: Mapping[str, Any]) -> list[Table | Text]:
    sentence = f"{result['scored']} of {result['items']} items scored by {result['model']}, in {result['results']}"
    folder = shlex.quote(result["folder"])
    return [line(sentence), line(f"ovam dataset filter {folder} --least-clip-quantile 0.25 --output-dir FOLDER")]


def _filtered(result: Mapping[str, Any]) -> list[Table | Text]:
    rows = [[name, str(count)] for name, count in result["dropped"].items()]
    dropped = [table(("filter", "items taken out"), rows)] if rows else []
    return [*dropped, line(f"{result['kept']} of {result['items']} items kept, in {result['output_dir']}")]


def _checked(result: Mapping[str, Any]) -> list[Table | Text]:
    problems = [line(f"* {problem}") for problem in result["problems"]]
    more = result["problems_found"] - len(result["problems"])
    verdict = "nothing is wrong" if result["passed"] else f"{result['problems_found']} problems"
    tail = [line(f"* and {more} more")] if more else []
    return [line(f"{result['folder']}: {result['items']} items, {verdict}"), *problems, *tail]
