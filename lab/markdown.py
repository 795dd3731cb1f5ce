"""Tables of Markdown, how figures stand in them, and how a page gets them."""

import re
from collections.abc import Iterable, Sequence

from ovam.evaluate import Interval


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def interval(found: Sequence[float] | None) -> str:
    """A difference with its 95 % bounds; nothing where it was not measured."""
    if found is None:
        return ""
    each = Interval(*found)
    return f"{each.value:+.3f} ({each.low:+.3f} to {each.high:+.3f})"


def placed(page: str, name: str, command: str, text: str) -> str:
    """A page with `text` between its marks of this name: `<!-- name -->` and `<!-- written by `command` -->`.

    Raises:
        ValueError: the page has no such place, or several.
    """
    marks = (re.escape(f"<!-- {name} -->\n"), re.escape(f"<!-- written by `{command}` -->"))
    found, count = re.subn(f"({marks[0]}).*?({marks[1]})", lambda place: place[1] + text + place[2], page, flags=re.S)
    if count != 1:
        raise ValueError(f"the page has {count} places for the {name}, expected one")
    return found
