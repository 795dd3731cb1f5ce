"""The short table of the report, for a page about the methods."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.markdown import placed, table
from lab.pseudo_masks.rows import TOKEN, WORD

NAME, COMMAND = "figures", "python -m lab.pseudo_masks"


def summary(found: Mapping[str, Any]) -> str:
    """MIoU in points of each method with words and with tokens, on each set of pictures.

    Args:
        found: The report, as its JSON file holds it.
    """
    sets = found["sets"]
    points = {
        (name, line["method"], line["form"]): line["mIoU"] for name, each in sets.items() for line in each["table"]
    }
    methods = dict.fromkeys(method for _, method, _ in points)
    rows = [[method, *(_pair(points, name, method) for name in sets)] for method in methods]
    about = found["about"]
    head = f"mIoU in points, word / token; model {about['model']}, ovam {about['version']}.\n\n"
    return head + table(["method", *(each["heading"] for each in sets.values())], rows)


def write_summary(page: Path, found: Mapping[str, Any]) -> None:
    """Put the table in its place on a page.

    Raises:
        ValueError: the page has no place for it.
    """
    page.write_text(placed(page.read_text(encoding="utf-8"), NAME, COMMAND, summary(found)), encoding="utf-8")


def _pair(points: Mapping[tuple[str, str, str], float | None], name: str, method: str) -> str:
    return " / ".join(_points(points.get((name, method, form))) for form in (WORD, TOKEN))


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
