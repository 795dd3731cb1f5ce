"""Sentences that say where an ablation's order differs from the paper's, and why, as far as the figures show it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lab.pseudo_masks import paper
from lab.pseudo_masks.ablations import in_paper
from lab.pseudo_masks.rows import TOKEN, WORD

LEAST = 0.7
"""Agreement with the paper's figures below which the page says where they differ."""

_LITTLE = 0.5  # of the best grid's IoU: a grid that reaches less by itself says little of where a word is
_CLOSE = 2.0  # points: figures that lie within so few have an order that says little
_KINDS = {
    "at": ("one step alone", paper.AT_STEP),
    "from": ("from a step on", paper.FROM_STEP),
    "to": ("up to a step", paper.TO_STEP),
}

Points = Mapping[str, float]
"""By row, in points."""


def differences(name: str, found: Mapping[str, Any]) -> str:
    """What to say below an ablation's agreement with the paper; nothing where it is at least `LEAST` everywhere.

    Args:
        name: One of `ABLATIONS`.
        found: What `ablate` returned.
    """
    low = [key for key, value in found["agreement"].items() if value < LEAST]
    values: dict[str, dict[str, float]] = {}
    for line in found["table"]:
        if line["mIoU"] is not None:
            values.setdefault(line["form"], {})[line["method"]] = 100 * line["mIoU"]
    sentences = {"blocks": _of_blocks, "steps": _of_steps}.get(name)
    return " ".join(sentences(values, low)) if sentences and low else ""


def _of_blocks(values: Mapping[str, Points], low: Sequence[str]) -> Iterator[str]:
    groups: dict[tuple[int, int], list[str]] = {}
    grids = sorted({int(grid) for of in values.values() for row in of for grid in row.split(" + ")}, reverse=True)
    for form in low:
        theirs = _pairs_at(paper.GRIDS, (WORD, TOKEN).index(form))
        singles = [grid for grid in grids if str(grid) in values[form]]
        ours = max(singles, key=lambda grid: values[form][str(grid)])
        best = int(max((row for row in theirs if row.isdigit()), key=theirs.__getitem__))
        if int(in_paper(str(ours), grids)) != best:
            groups.setdefault((ours, best), []).append(form)
            continue
        own = {in_paper(row, grids): value for row, value in values[form].items()}
        yield f"With {form}s the best single grid is the same share of the finest one as in the paper. " + _order(
            own, theirs, "grids"
        )
    for (ours, best), forms in groups.items():
        yield from _other_grid({form: values[form] for form in forms}, grids, ours, best)


def _other_grid(values: Mapping[str, Points], grids: Sequence[int], ours: int, best: int) -> Iterator[str]:
    """The best single grid is at another place than in the paper."""
    finest = int(in_paper(str(grids[0]), grids))
    theirs = {form: paper.GRIDS[str(best)][(WORD, TOKEN).index(form)] for form in values}
    yield (
        f"The best single grid here is {_square(ours)}, {_share(grids[0], ours)} "
        f"({_each({form: of[str(ours)] for form, of in values.items()})}); in the paper it is {_square(best)}, "
        f"{_share(finest, best)} ({_each(theirs)})."
    )
    if ours == best:
        yield f"Both have {ours * ours} places; the orders are compared by share of the finest grid, not by places."
    others = [grid for grid in grids if grid != ours]
    alone = {
        form: max((of[str(grid)] for grid in others if str(grid) in of), default=0.0) for form, of in values.items()
    }
    little = all(alone[form] < _LITTLE * of[str(ours)] for form, of in values.items())
    if ours != grids[0] or max(others, default=best) >= best or not little:
        return
    places = " and ".join(f"{grid * grid} ({_square(grid)})" for grid in others)
    yield (
        f"On this model words are told at {_square(ours)} only: its coarser grids have fewer places than the paper's "
        f"best, {places}, and alone they reach at most {_each(alone)}."
    )
    mixed = {
        form: max((of[row] for row in of if row.startswith(f"{ours} + ")), default=0.0) for form, of in values.items()
    }
    if all(0 < mixed[form] < of[str(ours)] for form, of in values.items()):
        yield f"A mean with them is below {_square(ours)} alone: at most {_each(mixed)}."


def _of_steps(values: Mapping[str, Points], low: Sequence[str]) -> Iterator[str]:
    for key in low:
        form, kind = key.split(", ")
        title, theirs = _KINDS[kind]
        own = {row.split()[1]: value for row, value in values[form].items() if row.startswith(f"{kind} ")}
        known = _pairs_at({str(step): pair for step, pair in theirs.items()}, (WORD, TOKEN).index(form))
        best, their_best = max(own, key=own.__getitem__), max(known, key=known.__getitem__)
        yield (
            f"With {form}s, {title}: the best is step {best} here ({own[best]:.1f}), and step {their_best} in the "
            f"paper ({known[their_best]:.1f}). {_order(own, known, 'step')}"
        )


def _order(own: Points, theirs: Points, what: str) -> str:
    """The row that is furthest from its place in the paper's order, and whether the order says anything."""
    shared = [row for row in own if row in theirs]
    here, there = (sorted(shared, key=lambda row: -of[row]) for of in (own, theirs))
    row = max(shared, key=lambda row: abs(here.index(row) - there.index(row)))
    text = (
        f"Furthest from its place in the paper's order: {what} {row}, number {here.index(row) + 1} of {len(shared)} "
        f"here and number {there.index(row) + 1} there."
    )
    spread = max(own[row] for row in shared) - min(own[row] for row in shared)
    if spread < _CLOSE:
        text += f" All {len(shared)} figures here lie within {spread:.1f} points, so their order says little."
    return text


def _pairs_at(pairs: Mapping[str, tuple[float, float]], place: int) -> dict[str, float]:
    return {row: pair[place] for row, pair in pairs.items()}


def _each(points: Points) -> str:
    """Figures by form, as text."""
    return ", ".join(f"{value:.1f} with {form}s" for form, value in points.items())


def _square(grid: int) -> str:
    return f"{grid} x {grid}"


def _share(finest: int, grid: int) -> str:
    return "the finest" if grid == finest else f"1/{finest // grid} of the finest"
