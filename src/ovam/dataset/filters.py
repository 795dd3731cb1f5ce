"""Choose items by their scores; nothing is generated again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ovam.dataset.draws import Draws
from ovam.dataset.duplicates import groups_of
from ovam.dataset.item import Item
from ovam.dataset.sections import FilterSection
from ovam.errors import DatasetError

Test = Callable[[Item], bool]

_MADE_BY = {
    "unrefined": "; masks with refine=true or crf=true have it, in data sets begun since there is this score",
    "agreement": "; agreement=true in the recipe makes it",
    "vote": "; votes=3 in the recipe makes it",
    "clip": "; `ovam dataset score` makes it",
}


@dataclass(frozen=True)
class Kept:
    """The items that filters leave.

    Attributes:
        items: Items that stay.
        dropped: Number of items that each filter took out, in the order in which the filters ran.
    """

    items: tuple[Item, ...]
    dropped: Mapping[str, int]


def kept_by(items: Sequence[Item], options: FilterSection) -> Kept:
    """Return the items that all filters leave.

    Filters run one after another, and each item counts for the first filter that takes it out. Quantiles are
    computed from the items that the earlier filters left.

    Args:
        items: Items in the order of their numbers.
        options: The filters.

    Raises:
        DatasetError: no item is left (the message says how many each filter took out), or a filter needs a score that
            the items do not have.
    """
    left, dropped = list(items), dict[str, int]()
    for name, choose in _filters(options):
        before = len(left)
        left = choose(left)
        if before > len(left):
            dropped[name] = before - len(left)
    if not left:
        taken_out = ", ".join(f"{name} {count}" for name, count in dropped.items()) or "there was none"
        raise DatasetError(
            f"no item is left of {len(items)}; taken out: {taken_out}: expected weaker filters; the card of the data "
            "set has the usual values of each score"
        )
    return Kept(tuple(left), dropped)


def random_subset(items: Sequence[Item], count: int, digest: str) -> tuple[Item, ...]:
    """Return as many items, chosen at random by the recipe's hash: what a filter is compared with."""
    draws = Draws(digest)
    chosen = sorted(items, key=lambda item: draws.bits("subset", item.index))[:count]
    return tuple(sorted(chosen, key=lambda item: item.index))


def _filters(options: FilterSection) -> Iterator[tuple[str, Callable[[list[Item]], list[Item]]]]:
    """Yield the filters that were asked for, with their names."""
    if options.least_grey:
        yield "least_grey", _where(lambda item: _number(item, "grey") >= options.least_grey)
    if not options.empty:
        yield "empty", _where(lambda item: all(item.areas.values()))
    if options.least_area_quantile > 0 or options.most_area_quantile < 1:
        yield "area_quantile", lambda items: _by_area(items, options.least_area_quantile, options.most_area_quantile)
    for score in ("presence", "confidence", "stability", "unrefined", "agreement", "vote", "clip"):
        least = getattr(options, f"least_{score}")
        if least:
            yield f"least_{score}", _where(_at_least(score, least))
    if options.least_unrefined_quantile:
        yield "unrefined_quantile", lambda items: by_quantile(items, "unrefined", options.least_unrefined_quantile)
    if options.least_clip_quantile:
        yield "clip_quantile", lambda items: by_quantile(items, "clip", options.least_clip_quantile)
    if options.most_ignored < 1:
        yield "most_ignored", _where(lambda item: item.ignored <= options.most_ignored)
    if options.duplicates >= 0:
        yield "duplicates", lambda items: _first_ones(items, options.duplicates)


def _where(test: Test) -> Callable[[list[Item]], list[Item]]:
    return lambda items: [item for item in items if test(item)]


def _at_least(score: str, least: float) -> Test:
    return lambda item: min(_score(item, score).values()) >= least


def _score(item: Item, name: str) -> Mapping[str, float]:
    found: Any = item.scores.get(name)
    if not isinstance(found, Mapping):
        raise DatasetError(
            f"item {item.index} has no score {name!r}, only {', '.join(item.scores)}: expected a filter of one of "
            "these scores" + _MADE_BY.get(name, "")
        )
    return found


def _number(item: Item, name: str) -> float:
    found: Any = item.scores.get(name)
    if not isinstance(found, int | float):
        raise DatasetError(f"item {item.index} has no score {name!r}, only {', '.join(item.scores)}")
    return found


def by_quantile(items: Sequence[Item], score: str, low: float) -> list[Item]:
    """Return the items at or above a quantile of the items with as many classes.

    A score counts as its rank among those of its class, and an item as its worst class. Items with few classes would
    win if all items were compared, and data with few objects in a picture teach less.

    Args:
        items: The items.
        score: Name of a score by class.
        low: The quantile, in [0, 1].

    Raises:
        DatasetError: an item does not have this score.
    """
    ranks = _ranks(items, score)
    worst = [min(ranks[name][value] for name, value in _score(item, score).items()) for item in items]
    groups: dict[int, list[float]] = {}
    for item, rank in zip(items, worst, strict=True):
        groups.setdefault(len(item.classes), []).append(rank)
    least = {count: np.quantile(found, low) for count, found in groups.items()}
    return [item for item, rank in zip(items, worst, strict=True) if rank >= least[len(item.classes)]]


def _ranks(items: Sequence[Item], score: str) -> dict[str, dict[float, float]]:
    """Return for each class and each value of a score the share of the class's values that are not above it."""
    values: dict[str, list[float]] = {}
    for item in items:
        for name, value in _score(item, score).items():
            values.setdefault(name, []).append(value)
    return {
        name: dict(zip(sorted(found), np.arange(1, len(found) + 1) / len(found), strict=True))
        for name, found in values.items()
    }


def _by_area(items: Sequence[Item], low: float, high: float) -> list[Item]:
    """Return the items whose masks have usual areas: between two quantiles of all areas of their class."""
    areas: dict[str, list[float]] = {}
    for item in items:
        for name, area in item.areas.items():
            areas.setdefault(name, []).append(area)
    bounds = {name: np.quantile(found, (low, high)) for name, found in areas.items()}
    return [
        item for item in items if all(bounds[name][0] <= area <= bounds[name][1] for name, area in item.areas.items())
    ]


def _first_ones(items: Sequence[Item], distance: int) -> list[Item]:
    first = groups_of([item.hash for item in items], distance)
    return [item for place, item in enumerate(items) if first[place] == place]
