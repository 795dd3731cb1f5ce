"""A gaussian blur by a bilateral grid: the rival of the permutohedral lattice.

Its cells are as wide as the gaussian. What splat and slice blur already is taken off the blur between.
"""

import itertools

import numpy as np
from scipy.sparse import csr_array


class Grid:
    """A grid around points (dimension, point), each in its nearest cell or shared by all cells around it."""

    def __init__(self, points: np.ndarray, *, shared: bool) -> None:
        """Lay the grid; `shared` is multilinear."""
        dimensions, count = points.shape
        low = np.floor(points) if shared else np.rint(points)
        cells = low.astype(np.int64) - low.astype(np.int64).min(1, keepdims=True) + 1
        self.strides = np.concatenate([[1], np.cumprod(cells.max(1)[:-1] + 3)]).astype(np.int64)
        keys, shares = [], []
        for corner in itertools.product((0, 1) if shared else (0,), repeat=dimensions):
            step = np.array(corner)[:, None]
            keys.append(self.strides @ (cells + step))
            shares.append(np.abs(1 - step - (points - low)).prod(0) if shared else np.ones(count))
        self.found, owner = np.unique(np.stack(keys, 1), return_inverse=True)
        ends = np.arange(count + 1) * len(keys)
        parts = np.stack(shares, 1).astype(np.float32).ravel()
        self.take = csr_array((parts, owner.ravel().astype(np.int32), ends), shape=(count, len(self.found)))
        self.beside = 1 / 3 if shared else 5 / 12  # of variance 1: 1/6 or 1/12 by each of splat and slice
        self.neighbours = [[self._places(sign * stride) for sign in (-1, 1)] for stride in self.strides]

    def _places(self, step: int) -> np.ndarray:
        place = np.searchsorted(self.found, self.found + step).clip(0, len(self.found) - 1)
        return np.where(self.found[place] == self.found + step, place, len(self.found))

    def blur(self, values: np.ndarray) -> np.ndarray:
        """Sum up the values (channel, point) around each point."""
        cells = np.zeros((len(self.found) + 1, len(values)), np.float32)
        cells[:-1] = self.take.T @ values.T
        for before, after in self.neighbours:
            blurred = (1 - 2 * self.beside) * cells[:-1] + self.beside * (cells[before] + cells[after])
            cells[:-1] = blurred
        return np.ascontiguousarray((self.take @ cells[:-1]).T)
