"""Objects of a mask: connected pieces of each class. Two things of one class that touch are one object."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from ovam.dataset.about import About
from ovam.masks.regions import Box, box_of, pieces


@dataclass(frozen=True, eq=False)
class Thing:
    """A connected piece of a class.

    Attributes:
        name: The class.
        id: Its number.
        mask: The piece's pixels.
        box: x, y, width and height in pixels, as COCO has it.
    """

    name: str
    id: int
    mask: Bool[np.ndarray, "height width"]
    box: Box

    @property
    def area(self) -> int:
        """Number of its pixels."""
        return int(self.mask.sum())


def things_of(labels: UInt8[np.ndarray, "height width"], about: About) -> Iterator[Thing]:
    """Yield the pieces of all classes, in the order of the classes; undecided pixels are of none."""
    for one in about.classes:
        numbers, count = pieces(labels == one.id)
        for number in range(1, count + 1):
            mask = numbers == number
            box = box_of(mask)
            assert box is not None  # a piece has pixels
            yield Thing(one.name, one.id, mask, box)
