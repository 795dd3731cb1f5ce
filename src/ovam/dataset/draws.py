"""Random choices that follow from a recipe's hash and an item's index alone, whatever was drawn before."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Value = TypeVar("Value")
_BITS = 64


@dataclass(frozen=True)
class Draws:
    """Choices of one recipe.

    Attributes:
        digest: The recipe's hash.
    """

    digest: str

    def bits(self, *names: str | int) -> int:
        """Return 64 random bits for what is named."""
        text = ":".join(map(str, (self.digest, *names)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[: _BITS // 8], "big")

    def share(self, *names: str | int) -> float:
        """Return a number in [0, 1)."""
        return (self.bits(*names) >> 11) / 2**53

    def one_of(self, values: Sequence[Value], *names: str | int) -> Value:
        """Return one of some values; all are equally likely."""
        return values[self.bits(*names) % len(values)]

    def shuffled(self, values: Sequence[Value], *names: str | int) -> list[Value]:
        """Return the values in a random order."""
        places = sorted(range(len(values)), key=lambda place: self.bits(*names, place))
        return [values[place] for place in places]

    def turn(self, count: int, index: int, *names: str | int) -> int:
        """Return a number below `count` for an index, so that all numbers take turns.

        Indices come in rounds of `count`: 0 to `count` - 1, and so on. Each round gives every number once, in a random
        order.

        Example:
            >>> sorted(Draws("a").turn(3, index, "class") for index in (3, 4, 5))
            [0, 1, 2]
        """
        turn, place = divmod(index, count)
        half = max(1, math.ceil(math.log2(count) / 2)) if count > 1 else 1
        while True:  # cycle walking: a permutation of a power of 4, applied until the value is below count
            place = self._permuted(place, half, turn, *names)
            if place < count:
                return place

    def _permuted(self, value: int, half: int, *names: str | int) -> int:
        """Return the value's image under a random permutation of 2 * half bits (a Feistel network)."""
        mask = (1 << half) - 1
        left, right = value >> half, value & mask
        for step in range(4):
            left, right = right, left ^ (self.bits(*names, step, right) & mask)
        return left << half | right

    def weighted(self, weights: dict[str, float], *names: str | int) -> str:
        """Return one of some names, by their weights, of which one at least is above 0."""
        at, total = self.share(*names) * sum(weights.values()), 0.0
        for name, weight in weights.items():
            total += weight
            if at < total:
                return name
        return next(name for name, weight in reversed(weights.items()) if weight)
