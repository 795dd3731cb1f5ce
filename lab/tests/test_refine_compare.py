"""What the dense CRF is compared with in the lab."""

import numpy as np
import pytest

from lab.refine.compare import SMALL, compare, methods_of
from lab.refine.grids import Grid
from lab.refine.stand_in import GRID, stand_ins
from lab.refine.upsample import Enlarged


def test_stand_ins_are_the_same_each_time():
    first, second = (list(stand_ins(1, 96, 0.1)) for _ in range(2))
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.map, b.map)
        assert a.map.shape == (GRID, GRID)
        assert a.truth.shape == a.picture.shape[:2] == (96, 96)
        assert a.map[a.truth.reshape(GRID, 4, GRID, 4).mean((1, 3)) == 1].mean() > 0.5, "the map shows the mask"


def test_enlarging_follows_the_picture():
    """The picture's border lies within a cell, where a bilinear map can't show it."""
    picture = np.zeros((GRID * 8, GRID * 8, 3), np.uint8)
    picture[:, 99:] = 255
    coarse = np.zeros((GRID, GRID), np.float32)
    coarse[:, 13:] = 1
    coarse[:, 12] = 5 / 8
    enlarged = Enlarged(picture)
    assert np.array_equal(enlarged(coarse) > 0.5, np.broadcast_to(np.arange(GRID * 8) >= 99, picture.shape[:2]))
    constant = enlarged(np.full((GRID, GRID), 0.3, np.float32))
    assert np.abs(constant - 0.3).max() < 1e-5  # measured 1.2e-7


@pytest.mark.parametrize(("shared", "tolerance"), [(True, 0.02), (False, 0.15)])  # measured 0.007, 0.061
def test_grids_blur_by_a_gaussian(shared, tolerance):
    points = np.random.default_rng(0).uniform(0, 4, (2, 500)).astype(np.float32)
    values = np.random.default_rng(1).uniform(size=(1, 500)).astype(np.float32)
    exact = np.exp(-((points[:, :, None] - points[:, None]) ** 2).sum(0) / 2)
    grid = Grid(points, shared=shared)
    apart = np.abs(grid.blur(values) / grid.blur(np.ones_like(values)) - (exact @ values[0]) / exact.sum(1)).max()
    assert apart < tolerance


def test_every_method_has_a_row_at_every_noise():
    rows = compare(1, SMALL, methods_of(theirs=False))
    assert len({(row["method"], row["noise"]) for row in rows}) == len(rows) == 3 * 4
    assert all(0 < row["mean_iou"] <= 1 for row in rows)
    assert all(row["above_crf"]["mean"] == 0 for row in rows if row["method"] == "crf")
