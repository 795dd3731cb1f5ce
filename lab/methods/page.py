"""The table of agreements, in docs/methods.md and as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.markdown import placed, table
from lab.methods.comparison import Agreement, table_rows

HEADER = ("method", "what is compared", "largest difference", "allowed")
RESULT = Path("results") / "methods" / "agree.json"


def written(page: str, result: Mapping[str, Any]) -> str:
    """Return the page with the table of a result in its place.

    Raises:
        ValueError: the page has no place for it.
    """
    lines = table(HEADER, table_rows([Agreement(**one) for one in result["agreements"]]))
    return placed(page, "agreements", "python -m lab.methods agree", lines)


def write(docs: Path, result: Mapping[str, Any]) -> None:
    """Write the result as JSON, and its table into the page."""
    (docs / RESULT).parent.mkdir(parents=True, exist_ok=True)
    (docs / RESULT).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    page = docs / "methods.md"
    page.write_text(written(page.read_text(encoding="utf-8"), result), encoding="utf-8")
