"""Tables and lines of plain text."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text


def facts_table(facts: Mapping[str, Any]) -> list[Table | Text]:
    """Return a table with names and values in two columns; each list of records becomes a separate table."""
    rows = [[_name(name), value_text(value)] for name, value in facts.items() if not _records(value)]
    tables = [
        table(
            [_name(column) for column in value[0]], [[value_text(cell) for cell in entry.values()] for entry in value]
        )
        for value in facts.values()
        if _records(value)
    ]
    return [table(("", ""), rows), *tables]


def _name(key: str) -> str:
    """Return a key as words."""
    return key.replace("_", " ")


def _records(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and isinstance(value[0], Mapping)


def value_text(value: Any) -> str:
    """Return any value of a record as one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            return "none"
        pair = len(value) == 2 and all(isinstance(item, int) for item in value)  # height and width
        return (" x " if pair else ", ").join(map(value_text, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table without lines; if all heads are empty, they are left out."""
    made = Table(box=None, show_header=any(columns), header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(line(cell) for cell in row))
    return made


def line(text: str) -> Text:
    """Return the text without markup, and with spaces in place of control characters."""
    return Text("".join(letter if letter.isprintable() else " " for letter in text))
