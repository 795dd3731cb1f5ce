"""Optimised tokens for people: what they reach first, how they were fitted on request."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from ovam.cli.tables import facts_table, line, table

_ALWAYS = ("rows", "model", "annotations", "loss", "licence")


def tokens_shown(result: Mapping[str, Any], details: bool) -> list[Table | Text]:
    """IoU with the annotations where it was measured, then a line a class; each group's fit with `details`."""
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
    more = line("--details tells how they were fitted, --json all of it in a form for programs")
    return [*parts, table(("classes", *there), rows), more]
