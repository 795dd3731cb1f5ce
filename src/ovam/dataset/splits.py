"""Splits without leaks: near duplicates of a training picture are not in the validation split."""

from collections.abc import Sequence
from dataclasses import replace

from ovam.dataset.duplicates import groups_of
from ovam.dataset.item import Item


def without_leaks(items: Sequence[Item], distance: int) -> tuple[Item, ...]:
    """Return the items, each group of near duplicates with the split of its first one.

    Args:
        items: Items in the order of their numbers.
        distance: Maximum number of bits in which the hashes of near duplicates differ; below 0, all splits stay.
    """
    first = groups_of([item.hash for item in items], distance)
    return tuple(
        item if item.split == items[place].split else replace(item, split=items[place].split)
        for item, place in zip(items, first, strict=True)
    )
