"""A command's result for people: tables of plain text on stdout, or the whole of it as JSON."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE = 140  # columns where no terminal says how many there are


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a result."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        return
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    for part in _parts(result):
        console.print(part)


def _parts(result: Mapping[str, Any]) -> list[Table | Text]:
    kind = result.get("command")
    if kind == "generate":
        return _generated(result)
    if kind in ("maps", "segment"):
        return [*_answers(result, Path(result["output_dir"])), _seconds(result)]
    if kind == "demo":
        later = result["maps"]
        asked = _line("asked the saved trace for one more word, without running the model:")
        return [
            *_generated(result["generate"])[:-1],
            asked,
            *_answers(later, Path(later["output_dir"])),
            _seconds(result),
        ]
    if kind == "evaluate":
        return _evaluated(result)
    if kind == "plan":
        return _plan(result)
    if kind == "verify":
        return _verified(result)
    if "header" in result:
        return _trace(result)
    return _facts(result)


def _generated(result: Mapping[str, Any]) -> list[Table | Text]:
    parts: list[Table | Text] = []
    for image in result["images"]:
        folder = Path(result["output_dir"]) / image["folder"]
        parts.append(_line(f"{result['prompt']} (model {result['model']}, seed {image['seed']})"))
        parts += _answers(image, folder)
    return [*parts, _seconds(result)]


def _answers(answers: Mapping[str, Any], folder: Path) -> list[Table | Text]:
    columns = [name for name in ("presence", "share", "map", "mask") if name in answers["words"][0]]
    rows = [[word["word"], *(_cell(name, word[name]) for name in columns)] for word in answers["words"]]
    files = ", ".join(answers["files"].values())
    return [_table(("word", *columns), rows), _line(f"in {folder}: {files}")]


def _cell(name: str, value: Any) -> str:
    return {"presence": "{:.3f}", "share": "{:.0%}"}.get(name, "{}").format(value)


def _seconds(result: Mapping[str, Any]) -> Text:
    return _line(f"{result['seconds']:.1f} seconds")


def _evaluated(result: Mapping[str, Any]) -> list[Table | Text]:
    facts = {name: value for name, value in result.items() if name != "figures" and value not in (None, [])}
    return _facts(facts | result["figures"])


def _plan(result: Mapping[str, Any]) -> list[Table | Text]:
    parts = list(dict.fromkeys(part for block in result["blocks"] for part in block["parts"]))
    rows = [
        [block["name"], "x".join(map(str, block["grid"])), *(f"{block['parts'].get(p, 0) / 2**20:.2f}" for p in parts)]
        for block in result["blocks"]
    ]
    size = "x".join(map(str, result["size"]))
    told = f"{result['pipeline']}, {size} pixels, {result['calls']} denoiser calls: {result['bytes'] / 2**30:.3f} GiB"
    return [_table(("block", "grid", *(f"{part}, MiB" for part in parts)), rows), _line(told)]


def _verified(result: Mapping[str, Any]) -> list[Table | Text]:
    checks = [
        [name.replace("_", " "), "passed" if each["passed"] else f"failed: {each['message']}", f"{each['seconds']:.1f}"]
        for name, each in result["checks"].items()
    ]
    words = [[thing, f"{each['own']:.3f}", f"{each['absent']:.3f}"] for thing, each in result["words"].items()]
    facts = {name: value for name, value in result.items() if name not in ("checks", "words")}
    highest = _table(("drawn", "own map, highest", "absent word's, highest"), words)
    return [*_facts(facts), _table(("check", "", "seconds"), checks), highest]


def _trace(result: Mapping[str, Any]) -> list[Table | Text]:
    """A header may come from anywhere, so that nothing in it is taken for granted."""
    header = result["header"]
    source, calls, blocks = (header.get(name) or {} for name in ("source", "calls", "blocks"))
    facts = {
        "file": f"{result['file']}, {result['bytes'] / 2**20:.1f} MiB, format {header.get('format_version')}",
        "size": header.get("size"),
        "halves": header.get("halves"),
        "stored in": header.get("dtype"),
        "denoiser calls": len(calls),
        "timesteps": [_of(call, "timestep") for call in calls],
        **(source if isinstance(source, Mapping) else {"source": source}),
        **{f"text {name}": value for name, value in dict(header.get("text") or {}).items()},
    }
    rows = [[_value(_of(block, name)) for name in ("name", "grid", "heads")] for block in blocks]
    return [*_facts(facts), _table(("block", "grid", "heads"), rows)]


def _of(entry: Any, name: str) -> Any:
    return entry.get(name) if isinstance(entry, Mapping) else None


def _facts(facts: Mapping[str, Any]) -> list[Table | Text]:
    """Names and values in two columns; a list of records becomes a table of its own."""
    rows = [[name, _value(value)] for name, value in facts.items() if not _records(value)]
    tables = [
        _table(tuple(value[0]), [[_value(cell) for cell in entry.values()] for entry in value])
        for value in facts.values()
        if _records(value)
    ]
    return [_table(("", ""), rows), *tables]


def _records(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and isinstance(value[0], Mapping)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            return "none"
        pair = len(value) == 2 and all(isinstance(item, int) for item in value)  # height and width
        return (" x " if pair else ", ").join(map(_value, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, show_header=any(columns), header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_line(cell) for cell in row))
    return table


def _line(text: str) -> Text:
    """Text as it is, without markup; what steers terminals is left out."""
    return Text("".join(letter if letter.isprintable() else " " for letter in text))
