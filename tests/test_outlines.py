"""Outlines and run lengths: exact ones give the mask back, here and in pycocotools; others keep their tolerance."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from ovam.errors import OptionError
from ovam.masks.coco import polygon_mask, rle_mask
from ovam.masks.label_studio import brush_rle
from ovam.masks.outlines import polygons_of, simplified
from ovam.masks.run_lengths import rle_of

LABEL_STUDIO = json.loads((Path(__file__).parent / "data" / "label_studio.json").read_text())
BLOBS = ndimage.gaussian_filter(np.random.default_rng(0).random((96, 128)), 4) > 0.5


def drawn(text):
    return np.array([[sign == "#" for sign in row] for row in text.split()])


@st.composite
def masks(draw):
    """Noise, in which pixels touch at corners, and smooth shapes with holes."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    noise = random.random((height, width))
    return noise < draw(st.floats(0, 1)) if draw(st.booleans()) else ndimage.gaussian_filter(noise, 1) > 0.5


def filled(polygons, size):
    return polygon_mask([polygon.coco() for polygon in polygons], size)


@given(masks())
def test_exact_outlines_give_the_mask_back(mask):
    polygons = polygons_of(mask, tolerance=0)
    assert (filled(polygons, mask.shape) == mask).all()
    assert sum(polygon.area for polygon in polygons) == mask.sum()
    assert len(polygons) == ndimage.label(mask)[1]
    for polygon in polygons:
        for ring in (polygon.outline, *polygon.holes):
            assert len({tuple(corner) for corner in ring.tolist()}) == len(ring) >= 4, "a corner is passed twice"
            turns = np.diff(np.concatenate([ring, ring[:2]]), axis=0)
            assert (np.abs(turns[1:]) @ [1, 0] * (np.abs(turns[:-1]) @ [1, 0]) == 0).all(), "a corner that is none"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools itself
@given(masks())
def test_pycocotools_reads_both_and_writes_the_same_run_lengths(mask):
    coco = pytest.importorskip("pycocotools.mask")
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    ours = rle_of(mask)
    assert ours == {"size": list(theirs["size"]), "counts": theirs["counts"].decode()}
    assert coco.area(ours) == mask.sum()
    polygons = polygons_of(mask, tolerance=0)
    if polygons:
        read = coco.merge(coco.frPyObjects([polygon.coco() for polygon in polygons], *mask.shape))
        assert (coco.decode(read) == mask).all()


@given(masks())
def test_run_lengths_are_read_back(mask):
    assert (rle_mask(rle_of(mask), mask.shape, "mask") == mask).all()


def test_long_runs_and_none():
    for mask in (np.zeros((300, 400), dtype=bool), np.ones((300, 400), dtype=bool), BLOBS):
        assert (rle_mask(rle_of(mask), mask.shape, "mask") == mask).all()
    assert rle_of(np.zeros((2, 3), dtype=bool))["counts"] == "6"


def test_holes_are_rings_of_their_own_which_run_the_other_way():
    (ring,) = polygons_of(drawn("..... .###. .#.#. .###. ....."), tolerance=0)
    assert ring.outline.tolist() == [[1, 1], [4, 1], [4, 4], [1, 4]]  # clockwise on a screen
    assert sorted(ring.holes[0].tolist()) == [[2, 2], [2, 3], [3, 2], [3, 3]]
    assert ring.area == 8
    islands = polygons_of(drawn("##### #...# #.#.# #...# #####"), tolerance=0)
    assert [len(polygon.holes) for polygon in islands] == [1, 0]
    assert [polygon.area for polygon in islands] == [16, 1]


def test_one_ring_goes_to_holes_on_the_shortest_way():
    (polygon,) = polygons_of(drawn("######### #.....### ######### ######.## #########"), tolerance=0)
    lines = [np.diff(np.concatenate([ring, ring[:1]]), axis=0) for ring in (polygon.outline, *polygon.holes)]
    ring = polygon.ring()
    length = np.hypot(*np.diff(np.concatenate([ring, ring[:1]]), axis=0).T).sum()
    ways = [2**0.5, 1.0]  # from the image's corner to the first hole, and from there to the second
    assert length == pytest.approx(sum(np.hypot(*line.T).sum() for line in lines) + 2 * sum(ways))


def test_an_empty_mask_has_no_outline():
    assert polygons_of(np.zeros((4, 5), dtype=bool)) == ()


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.0])
def test_simpler_outlines_keep_the_tolerance(tolerance):
    for exact, simple in zip(polygons_of(BLOBS, tolerance=0), polygons_of(BLOBS, tolerance=tolerance), strict=True):
        for before, after in zip((exact.outline, *exact.holes), (simple.outline, *simple.holes), strict=True):
            assert max(distance(corner, after) for corner in before) <= tolerance + 1e-9
            assert {tuple(corner) for corner in after.tolist()} <= {tuple(corner) for corner in before.tolist()}
    corners = [sum(len(p.outline) for p in polygons_of(BLOBS, tolerance=t)) for t in (0, tolerance)]
    assert corners[1] < corners[0] * {0.5: 0.85, 1.0: 0.35, 2.0: 0.2}[tolerance]


def distance(point, ring):
    """Of a point from a closed line, edge by edge."""
    found = []
    for start, end in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        way = end - start
        along = min(1.0, max(0.0, float((point - start) @ way / (way @ way))))
        found.append(float(np.hypot(*(point - start - along * way))))
    return min(found)


def test_one_pixel_keeps_its_area_at_any_tolerance():
    (polygon,) = polygons_of(drawn("... .#. ..."), tolerance=50)
    assert polygon.area == 1
    square = np.array([[0.0, 0], [9, 0], [9, 9], [0, 9]])
    assert simplified(square, 1.0).shape == (4, 2)


@pytest.mark.user_error
@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), "1", True])
def test_a_tolerance_is_a_number(tolerance):
    with pytest.raises(OptionError, match="tolerance="):
        polygons_of(BLOBS, tolerance=tolerance)


@pytest.mark.parametrize("case", LABEL_STUDIO["cases"], ids=lambda case: case["name"])
def test_label_studio_writes_the_same_bytes(case):
    rows = case["rows"]
    mask = np.mgrid[:180, :190][0] > 60 if rows is None else drawn(" ".join(rows))
    theirs = case["rle"]
    ours = brush_rle(mask)
    assert theirs[: len(ours)] == ours
    assert theirs[len(ours) :] in ([], [0])  # theirs fills up to a byte also where none was begun


@given(masks())
def test_label_studio_reads_our_brush(mask):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    read = brush.decode_rle(brush_rle(mask)).reshape(*mask.shape, 4)
    assert (read == 255 * mask[..., None]).all()
