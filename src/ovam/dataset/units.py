"""Units of work: a fixed batch of successive items, generated together or not at all."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """A batch of items.

    Attributes:
        number: Its number, from 0.
        indices: Numbers of its items.
        missing: Those that are still to be made. The others are generated with them, since a picture depends in its
            last bits on the size of its batch, but they are not written again.
    """

    number: int
    indices: tuple[int, ...]
    missing: tuple[int, ...]


def units_of(number: int, batch: int, done: Iterable[int] = ()) -> list[Unit]:
    """Return the units of a data set that have an item to make.

    Args:
        number: Number of items.
        batch: Items in a unit; the last unit may have fewer.
        done: Items that are there.
    """
    there, units = frozenset(done), list[Unit]()
    for unit, start in enumerate(range(0, number, batch)):
        indices = tuple(range(start, min(start + batch, number)))
        missing = tuple(index for index in indices if index not in there)
        if missing:
            units.append(Unit(unit, indices, missing))
    return units
