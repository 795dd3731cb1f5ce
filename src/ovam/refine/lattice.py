"""A gaussian blur of values at points of any dimension, by a permutohedral lattice in numpy and scipy.

The lattice cuts space into simplices. First, each point gives its value to the corners of its simplex; a nearer corner
gets a larger share. Second, along each axis in turn, every corner adds half of the values of its two neighbours. Third,
each point takes a value back from its corners, with the same shares. The time grows with the number of points, not with
the gaussian's width.

A corner has whole coordinates. They sum to 0, and all have the same remainder modulo `axes`, the number of coordinates.
The corners of one simplex have different remainders, 0 to `axes` - 1.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int8, Int32, Int64
from scipy.sparse import csc_array, csr_array

from ovam.errors import OptionError

Coordinates = Float32[np.ndarray, "axis point"]
Nearest = Int32[np.ndarray, "axis point"]
Rank = Int8[np.ndarray, "axis point"]


@dataclass(frozen=True, eq=False)
class Lattice:
    """A lattice around some points.

    Attributes:
        give: Share of each point's value that each corner gets, sparse, (corner, point).
        take: `give` transposed, (point, corner); each row sums to 1.
        neighbours: Indices of the two corners beside each corner, along each axis; a missing neighbour has the index
            after the last corner.
    """

    give: csc_array
    take: csr_array
    neighbours: Int32[np.ndarray, "axis 2 corner"]

    def blur(self, values: Float32[np.ndarray, "channel point"]) -> Float32[np.ndarray, "channel point"]:
        """Sum up the values around each point, weighed by a gaussian of width 1 about it, up to a common factor."""
        corners = np.zeros((self.neighbours.shape[2] + 1, len(values)), np.float32)
        corners[:-1] = self.give @ np.ascontiguousarray(values.T)  # the last row stays 0, for missing neighbours
        for before, after in self.neighbours:
            beside = corners.take(before, axis=0)
            beside += corners.take(after, axis=0)
            beside *= 0.5
            corners[:-1] += beside
        return np.ascontiguousarray((self.take @ corners[:-1]).T)


def lattice(points: Float32[np.ndarray, "dimension point"]) -> Lattice:
    """Lay a lattice around points, whose coordinates are in widths of the gaussian.

    Raises:
        OptionError: the points are too far apart, in widths, for their corners to be numbered.

    Source:
        Adams, Baek, Davis 2010, Fast High-Dimensional Filtering Using the Permutohedral Lattice; steps and rounding are
        those of Kraehenbuehl's densecrf, so that both find the same simplices.
    """
    nearest, rank, offsets = _simplices(_elevated(points))
    keys, strides = _keys(nearest, rank)
    found, owner = _numbered(keys.ravel())
    count, axes = points.shape[1], len(nearest)
    ends = np.arange(0, count * axes + 1, axes, dtype=np.int32)
    corners = np.ascontiguousarray(owner.reshape(axes, count).T).ravel()
    shares = np.ascontiguousarray(_shares(offsets, rank).T).ravel()
    take = csr_array((shares, corners, ends), shape=(count, len(found)))
    return Lattice(take.T, take, _neighbours(found, strides))


def _elevated(points: Float32[np.ndarray, "dimension point"]) -> Coordinates:
    """Move points onto the plane on which coordinates sum to 0, scaled so that the lattice blurs by width 1."""
    dimensions, count = points.shape
    scale = math.sqrt(2 / 3) * (dimensions + 1)
    elevated = np.empty((dimensions + 1, count), np.float32)
    total = np.zeros(count, np.float32)
    for axis in range(dimensions, 0, -1):
        scaled = points[axis - 1] * np.float32(scale / math.sqrt(axis * (axis + 1)))
        elevated[axis] = total - np.float32(axis) * scaled
        total += scaled
    elevated[0] = total
    return elevated


def _simplices(elevated: Coordinates) -> tuple[Nearest, Rank, Coordinates]:
    """Find the simplex around each point.

    Returns:
        The simplex's corner of remainder 0, divided by `axes`; the point's offset from this corner, as the rank of
        each coordinate (0 for the greatest); and this offset itself, divided by `axes`.
    """
    axes = len(elevated)
    elevated = elevated * np.float32(1 / axes)
    nearest = np.rint(elevated)
    excess = nearest.sum(0)
    offsets = elevated - nearest
    rank = np.zeros(elevated.shape, np.int8)
    for i in range(axes):
        for j in range(i + 1, axes):
            less = offsets[i] < offsets[j]
            rank[i] += less
            rank[j] += ~less
    rank += excess.astype(np.int8)  # rounding may leave the plane: move back the coordinates that were rounded most
    back = (rank < 0).view(np.int8) - (rank >= axes).view(np.int8)
    rank += back * np.int8(axes)
    return (nearest + back).astype(np.int32), rank, offsets - back


def _shares(offsets: Coordinates, rank: Rank) -> Float32[np.ndarray, "remainder point"]:
    """Barycentric coordinates of each point among the corners of its simplex, by the corners' remainders."""
    ordered = np.empty_like(offsets)
    np.put_along_axis(ordered, rank.astype(np.int64), offsets, axis=0)
    shares = np.empty_like(offsets)
    shares[0] = 1 + ordered[-1] - ordered[0]
    shares[1:] = (ordered[:-1] - ordered[1:])[::-1]
    return shares


def _keys(nearest: Nearest, rank: Rank) -> tuple[Int64[np.ndarray, "remainder point"], Int64[np.ndarray, " axis"]]:
    """Number every corner of every simplex by its place in a box around all of them.

    Returns:
        The keys, and the stride of each axis: how much a key grows to the next corner of the same remainder. Keys
        leave out the last axis, because the other coordinates determine it (all sum to 0).
    """
    axes, count = nearest.shape
    low = nearest[:-1].min(1) - 2
    spans = [int(span) for span in nearest[:-1].max(1) + 2 - low]
    if axes * math.prod(spans) >= 2**63:
        raise OptionError(f"{count} points are too far apart for widths as small as these: expected greater widths")
    strides = axes * np.array([math.prod(spans[:axis]) for axis in range(axes - 1)] + [0], np.int64)
    growing = np.empty((axes, count), np.int64)  # strides of the coordinates, from the greatest one to the least
    np.put_along_axis(growing, rank.astype(np.int64), np.broadcast_to(strides[:, None], growing.shape), axis=0)
    keys = np.empty((axes, count), np.int64)
    keys[0] = strides[:-1] @ (nearest[:-1] - low[:, None])
    for remainder in range(1, axes):
        keys[remainder] = keys[remainder - 1] + 1 - growing[-remainder]
    return keys, strides


def _numbered(keys: Int64[np.ndarray, " key"]) -> tuple[Int64[np.ndarray, " found"], Int32[np.ndarray, " key"]]:
    """Return the different keys in order, and the number of each key among them.

    If a key and its position fit in one number, these numbers are sorted: four times as fast as `np.unique`.
    """
    bits = len(keys).bit_length()
    if int(keys.max()) >= 2 ** (63 - bits):
        found, owner = np.unique(keys, return_inverse=True)
        return found, owner.astype(np.int32)
    both = np.sort((keys << bits) | np.arange(len(keys), dtype=np.int64))
    ordered = both >> bits
    first = np.empty(len(keys), bool)
    first[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    owner = np.empty(len(keys), np.int32)
    owner[both & (2**bits - 1)] = np.cumsum(first, dtype=np.int32) - 1
    return ordered[first], owner


def _neighbours(
    found: Int64[np.ndarray, " corner"], strides: Int64[np.ndarray, " axis"]
) -> Int32[np.ndarray, "axis 2 corner"]:
    """Find the two neighbours of each corner on each axis; the one before is lower by 1 on all other coordinates."""
    axes, count = len(strides), len(found)
    base = found - 1 - np.where(found % axes == 0, strides.sum() - axes, 0)
    neighbours = np.full((axes, 2, count), count, np.int32)
    for axis in range(axes):
        before = base + strides[axis]
        place = np.searchsorted(found, before).clip(0, count - 1)
        here = np.flatnonzero(found[place] == before)
        neighbours[axis, 0, here] = place[here]
        neighbours[axis, 1, place[here]] = here
    return neighbours
