"""Tables of Markdown, and how figures stand in them."""

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
