"""Units of work: a fixed batch of successive items, generated together or not at all."""

from collections.abc import Container, Iterable, Sequence
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
    there = frozenset(done)
    every = [unit_of(unit, number, batch) for unit in range(-(-number // batch))]
    parts = [
        Unit(one.number, one.indices, tuple(index for index in one.indices if index not in there)) for one in every
    ]
    return [unit for unit in parts if unit.missing]


def unit_of(unit: int, number: int, batch: int) -> Unit:
    """Return a unit of which nothing is done.

    Args:
        unit: Its number.
        number: Number of items.
        batch: Items in a unit.
    """
    indices = tuple(range(unit * batch, min((unit + 1) * batch, number)))
    return Unit(unit, indices, indices)


def still_missing(units: Sequence[Unit], failed: Container[int]) -> list[Unit]:
    """Return the units that have an item among those that failed, with these as the missing ones."""
    parts = [Unit(one.number, one.indices, tuple(index for index in one.missing if index in failed)) for one in units]
    return [unit for unit in parts if unit.missing]
