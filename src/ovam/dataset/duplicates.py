"""Near duplicates: pictures whose small perceptual hashes differ in few bits."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

_SIDE = 8
BITS = 2 * _SIDE * _SIDE
"""Length of a hash."""


def hash_of(picture: Image.Image) -> str:
    """Return a picture's perceptual hash: 128 bits as 32 hexadecimal digits.

    The picture is made grey and 9 x 9 pixels small. Each bit says whether a pixel is brighter than its right or its
    lower neighbour.
    """
    grey = np.asarray(picture.convert("L").resize((_SIDE + 1, _SIDE + 1), Image.Resampling.BOX), dtype=np.int16)
    across = grey[:-1, :-1] > grey[:-1, 1:]
    down = grey[:-1, :-1] > grey[1:, :-1]
    return np.packbits(np.concatenate([across.ravel(), down.ravel()])).tobytes().hex()


def groups_of(hashes: Sequence[str], distance: int) -> list[int]:
    """Return for each hash the place of the first one in its group.

    Two hashes are in one group if they differ in at most `distance` bits, or if others between them do.

    Args:
        hashes: 32 hexadecimal digits each.
        distance: Maximum number of different bits; below 0, no two hashes are in one group.
    """
    first = list(range(len(hashes)))
    for one, other in _alike(hashes, distance):
        a, b = _root(first, one), _root(first, other)
        first[max(a, b)] = min(a, b)
    return [_root(first, place) for place in range(len(hashes))]


def _root(first: list[int], place: int) -> int:
    while first[place] != place:
        first[place] = first[first[place]]
        place = first[place]
    return place


def _alike(hashes: Sequence[str], distance: int) -> Iterator[tuple[int, int]]:
    """Yield pairs that differ in at most `distance` bits.

    Of `distance` + 1 parts of two such hashes, one part at least is the same: only those pairs are compared.
    """
    if distance < 0:
        return
    numbers = [int(each, 16) for each in hashes]
    width = -(-BITS // (distance + 1))
    for start in range(0, BITS, width):
        buckets = defaultdict[int, list[int]](list)
        for place, number in enumerate(numbers):
            buckets[(number >> start) & ((1 << width) - 1)].append(place)
        for places in buckets.values():
            for i, one in enumerate(places):
                for other in places[:i]:
                    if (numbers[one] ^ numbers[other]).bit_count() <= distance:
                        yield other, one
