"""Tables of optimised tokens: first their scores, and on request how they were fitted."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from ovam.cli.tables import facts_table, line, table

_ALWAYS = ("rows", "model", "annotations", "thresholds", "loss", "licence")


def tokens_shown(result: Mapping[str, Any], details: bool) -> list[Table | Text]:
    """Return tables: IoU with the annotations if measured, one line per class; with `details`, each group's fit."""
    parts: list[Table | Text] = []
    reached = [
        [name, f"{iou:.3f}", each["source"]]
        for each in result.get("fitted_on", ())
        for name, iou in each["iou"].items()
    ]
    if reached:
        parts.append(table(("class", "IoU with its own annotation", "source"), reached))
    rest = {
        name: value
        for name, value in result.items()
        if name not in ("command", "groups", "fitted_on", "seconds", "version")
    }
    parts += facts_table(rest | {"classes": ", ".join(result["classes"])})
    if details:
        return [*parts, *(each for group in result["groups"] for each in facts_table(group))]
    there = [name for name in _ALWAYS if any(name in group for group in result["groups"])]
    rows = [[group["classes"], *(str(group.get(name, "")) for name in there)] for group in result["groups"]]
    more = line("--details shows how they were fitted, --json shows everything, for programs")
    return [*parts, table(("classes", *there), rows), more]
