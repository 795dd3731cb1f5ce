"""Outlines of masks as polygons along the edges of pixels, exact or with fewer corners.

Coordinates are (x, y) in pixels from the upper left corner of the image: the first pixel is the square from (0, 0) to
(1, 1). Seen on a screen, the corners of an outline are in clockwise order, and the corners of a hole in
counterclockwise order.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, Num
from scipy import ndimage

from ovam.checks import number

RING = Num[np.ndarray, "point 2"]

_Edges = dict[tuple[int, int, int], int]
"""Straight edges of a mask, all horizontal or all vertical.

A key is the start of an edge, (x, y, direction); the direction is +1 for right or down, and -1 for left or up. The
value is the end of the edge: its x if the edge is horizontal, its y if it is vertical."""


@dataclass(frozen=True, eq=False)
class Polygon:
    """One outline with the holes inside it.

    Attributes:
        outline: (x, y) of the corners of the outline, clockwise; the first corner is not repeated at the end.
        holes: (x, y) of the corners of each hole, counterclockwise.
    """

    outline: Float[np.ndarray, "point 2"]
    holes: tuple[Float[np.ndarray, "_ 2"], ...] = ()

    @property
    def area(self) -> float:
        """Area in pixels, without the area of the holes."""
        return float(_signed_area(self.outline) + sum(_signed_area(hole) for hole in self.holes))

    def moved(self, x: int, y: int) -> "Polygon":
        """Return the polygon moved to the right and down, in pixels."""
        way = np.array([x, y], dtype=np.float64)
        return Polygon(self.outline + way, tuple(hole + way for hole in self.holes))

    def ring(self) -> Float[np.ndarray, "point 2"]:
        """Return one closed line, for formats without holes.

        The line goes from the outline to each hole and back the same way. Programs that fill by the even-odd rule or by
        winding numbers leave the holes empty.
        """
        ring = self.outline
        for hole in self.holes:
            distances = ((ring[:, None] - hole[None]) ** 2).sum(-1)
            i, j = np.unravel_index(int(distances.argmin()), distances.shape)
            around = np.roll(hole, -int(j), axis=0)
            ring = np.concatenate([ring[: i + 1], around, around[:1], ring[i:]])
        return ring

    def coco(self) -> list[float]:
        """Return `ring` as COCO writes it: [x1, y1, x2, y2, ...]."""
        return [float(value) for value in self.ring().ravel()]


def polygons_of(mask: Bool[np.ndarray, "height width"], *, tolerance: float | int = 1.0) -> tuple[Polygon, ...]:
    """Return the outlines of a mask, one polygon for each piece that is connected by edges.

    Args:
        mask: The pixels inside.
        tolerance: Maximum distance in pixels between the exact and the returned outline. With a larger tolerance fewer
            corners remain (Douglas-Peucker). With 0 every corner remains, and the filled polygons are exactly the
            mask. With more than about 1, lines may cross where a mask is thin.

    Returns:
        Polygons in the order of their first rows; none for an empty mask.

    Raises:
        OptionError: the tolerance is not a number of at least 0.
    """
    tolerance = number("tolerance", tolerance, least=0.0)
    components, count = ndimage.label(mask)  # connected by edges
    outlines, holes = dict[int, np.ndarray](), defaultdict[int, list[np.ndarray]](list)
    for ring in _rings(mask):
        component = int(components[_pixel_inside(ring)])
        line = simplified(ring.astype(np.float64), tolerance)
        if _signed_area(ring) > 0:
            outlines[component] = line
        else:
            holes[component].append(line)
    return tuple(Polygon(outlines[i], tuple(holes[i])) for i in range(1, count + 1))


def simplified(ring: Float[np.ndarray, "point 2"], tolerance: float | int) -> Float[np.ndarray, "kept 2"]:
    """Return a closed line with fewer corners.

    Every corner that is left out lies within `tolerance` pixels of the new line. A ring is returned unchanged if it
    would lose its area.

    Source:
        Douglas and Peucker, "Algorithms for the reduction of the number of points required to represent a digitized
        line or its caricature", 1973; here the algorithm begins with two corners that lie far apart.
    """
    if tolerance == 0 or len(ring) < 4:
        return ring
    far = int(((ring - ring[0]) ** 2).sum(1).argmax())
    ring_from = np.roll(ring, -far, axis=0)
    other = int(((ring_from - ring_from[0]) ** 2).sum(1).argmax())
    closed = np.concatenate([ring_from, ring_from[:1]])
    keep = np.zeros(len(closed), dtype=bool)
    keep[[0, other]] = True
    open_parts = [(0, other), (other, len(closed) - 1)]
    while open_parts:
        first, last = open_parts.pop()
        if last - first < 2:
            continue
        distances = _distances(closed[first + 1 : last], closed[first], closed[last])
        farthest = int(distances.argmax())
        if distances[farthest] > tolerance:
            middle = first + 1 + farthest
            keep[middle] = True
            open_parts += [(first, middle), (middle, last)]
    kept = ring_from[keep[:-1]]
    same_side = len(kept) > 2 and _signed_area(kept) * _signed_area(ring) > 0
    return kept if same_side else ring


def _distances(
    points: Float[np.ndarray, "point 2"], start: Float[np.ndarray, " 2"], end: Float[np.ndarray, " 2"]
) -> Float[np.ndarray, " point"]:
    """Return the distance of each point from the straight line that goes from `start` to `end` and stops there."""
    way = end - start
    length = float(way @ way)
    part_of_way = ((points - start) @ way / length).clip(0, 1) if length else np.zeros(len(points))
    return np.linalg.norm(points - start - part_of_way[:, None] * way, axis=1)


def _signed_area(ring: RING) -> float:
    """Return the area within a ring; positive if the ring runs clockwise as seen on a screen, where y points down."""
    x, y = ring[:, 0], ring[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _pixel_inside(ring: Integer[np.ndarray, "point 2"]) -> tuple[int, int]:
    """Return (row, column) of a pixel of the mask beside the ring's first edge, which is horizontal."""
    (x1, y), (x2, _) = ring[:2].tolist()
    return (y, x1) if x2 > x1 else (y - 1, x2)


def _rings(mask: Bool[np.ndarray, "height width"]) -> list[Integer[np.ndarray, "point 2"]]:
    """Return all outlines as corners; each ring starts with a horizontal edge and passes no corner twice."""
    horizontal = {
        (x1 if side > 0 else x2, y, side): (x2 if side > 0 else x1) for y, x1, x2, side in _straight_edges(mask)
    }
    vertical = {
        (x, y2 if side > 0 else y1, -side): (y1 if side > 0 else y2) for x, y1, y2, side in _straight_edges(mask.T)
    }
    rings = list[np.ndarray]()
    while horizontal:
        rings += _simple(_walk(horizontal, vertical))
    return rings


def _straight_edges(mask: Bool[np.ndarray, "height width"]) -> list[list[int]]:
    """Return the horizontal edges: row, first column, column after the last, and side (+1: the mask is below)."""
    padded = np.pad(mask, 1).astype(np.int8)
    sides = padded[1:] - padded[:-1]  # with a column of zeros on both ends
    changed = sides[:, 1:] != sides[:, :-1]
    rows, firsts = np.nonzero(changed & (sides[:, 1:] != 0))
    _, lasts = np.nonzero(changed & (sides[:, :-1] != 0))
    return np.stack([rows, firsts, lasts, sides[rows, firsts + 1]], axis=1).tolist()


def _walk(horizontal: _Edges, vertical: _Edges) -> list[tuple[int, int]]:
    """Remove the edges of one closed line from both tables, and return the corners of the line.

    Horizontal and vertical edges alternate. Where two pixels touch only at a corner, the line turns right. So the line
    follows the outline of one piece whose pixels share edges.
    """
    start = next(iter(horizontal))
    x, y, right = start
    corners = list[tuple[int, int]]()
    while True:
        corners.append((x, y))
        x = horizontal.pop((x, y, right))
        corners.append((x, y))
        down = right if (x, y, right) in vertical else -right
        y = vertical.pop((x, y, down))
        right = -down if (x, y, -down) in horizontal or (x, y, -down) == start else down
        if (x, y, right) == start:
            return corners


def _simple(walk: list[tuple[int, int]]) -> list[Integer[np.ndarray, "point 2"]]:
    """Cut a closed line that passes a corner several times into lines that pass each corner once."""
    rings, path, places = list[np.ndarray](), list[tuple[int, int]](), dict[tuple[int, int], int]()
    for corner in walk:
        at = places.get(corner)
        if at is not None:
            rings.append(np.roll(np.array(path[at:]), -(at % 2), axis=0))  # every second edge is horizontal
            for left in path[at:]:
                del places[left]
            del path[at:]
        places[corner] = len(path)
        path.append(corner)
    return [*rings, np.array(path)]
