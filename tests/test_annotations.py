"""Masks in every form that people have them in, against plain loops; and what can't be used."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

import reference
from ovam import errors
from ovam.tokens.annotations import IGNORE, Annotation, annotation_from_labels, annotation_of
from ovam.tokens.coco import polygon_mask, rle_mask, unpacked
from test_errors import assert_refuses

SIZE = (6, 9)
MASK = np.zeros(SIZE, dtype=bool)
MASK[1:4, 2:7] = True
MASK[3, 2] = False


def palette_picture(values):
    picture = Image.fromarray(values.astype(np.uint8))
    picture.putpalette([0, 0, 0, *[200, 30, 30] * 255])
    return picture


def forms():
    """The same mask in every form."""
    grey = Image.fromarray((MASK * 255).astype(np.uint8))
    return {
        "booleans": MASK,
        "numbers": MASK.astype(np.int64),
        "floats": MASK.astype(np.float32),
        "of 255": (MASK * 255).astype(np.uint8),
        "a tensor": torch.from_numpy(MASK),
        "a grey picture": grey,
        "a paint program's colours": grey.convert("RGBA"),
        "one bit": grey.convert("1"),
        "a palette": palette_picture(MASK),
        "runs": {"size": list(SIZE), "counts": reference.run_lengths(MASK)},
        "packed runs": {"size": list(SIZE), "counts": reference.packed(reference.run_lengths(MASK))},
        "an object of COCO": {"category_id": 17, "segmentation": {"size": SIZE, "counts": reference.run_lengths(MASK)}},
        "polygons": [[3, 1, 7, 1, 7, 4, 3, 4], [2, 1, 3, 1, 3, 3, 2, 3]],
    }


@pytest.mark.parametrize("form", forms())
def test_every_form_gives_the_same(form):
    found = annotation_of({"cat": forms()[form]}, SIZE)
    assert found.classes == ("cat",)
    assert np.array_equal(found.labels, MASK.astype(np.uint8))


def test_files(tmp_path):
    Image.fromarray((MASK * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    runs = {"size": SIZE, "counts": reference.packed(reference.run_lengths(MASK))}
    (tmp_path / "mask.json").write_text(json.dumps(runs))
    for name in ("mask.png", "mask.json"):
        assert np.array_equal(annotation_of({"cat": tmp_path / name}, SIZE).labels, MASK)
        assert np.array_equal(annotation_of({"cat": str(tmp_path / name)}, SIZE).labels, MASK)


@pytest.mark.parametrize(("at", "ignore"), [(1, 255), (255, 128), (1, 7)])
def test_the_ignored_number(at, ignore):
    values = np.where(MASK, at, 0)
    values[5] = ignore
    found = annotation_of({"cat": values}, SIZE, ignore=ignore).labels
    assert (found[5] == IGNORE).all()
    assert np.array_equal(found[:5], MASK[:5])


def test_a_label_map():
    values = np.where(MASK, 8, 0)
    values[5], values[0, :2] = 255, 15
    names = {8: "cat", 15: "person", 3: "bird"}
    for given_as in (values, palette_picture(values)):
        found = annotation_from_labels(given_as, names, SIZE)
        assert found.classes == ("cat", "person", "bird")
        assert np.array_equal(found.labels, np.select([values == 8, values == 15, values == 255], [1, 2, IGNORE]))
    assert_refuses(errors.AnnotationError, ["15", "8"], lambda: annotation_from_labels(values, {8: "cat"}, SIZE))


def test_classes_side_by_side():
    other = np.zeros(SIZE, dtype=np.uint8)
    other[4:], other[0] = 1, IGNORE
    found = annotation_of({"cat": MASK, "sky": other}, SIZE).labels
    assert np.array_equal(found, np.select([other == IGNORE, MASK, other == 1], [IGNORE, 1, 2]))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_runs_of_any_mask(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    runs = reference.run_lengths(mask)
    assert unpacked(reference.packed(runs)) == runs
    for counts in (runs, reference.packed(runs), reference.packed(runs).encode()):
        assert np.array_equal(rle_mask({"size": [height, width], "counts": counts}, "mask"), mask)


def test_a_packed_text_worked_out_by_hand():
    """40 is 8 and a carry (X) and 1; 2 stands as 2 - 40 = -38, which is 26 and a carry (j) and -2 in five bits (N)."""
    assert unpacked("3X15jN") == [3, 40, 5, 2]


@given(st.lists(st.tuples(st.integers(0, 18), st.integers(0, 12)), min_size=3, max_size=6))
def test_polygons_hold_the_centres_that_are_inside(corners):
    """By the same rule, pixel by pixel; a centre that lies on an edge is left out, since rounding decides there."""
    points = [(x / 2 + 0.13, y / 2 + 0.29) for x, y in corners]
    found = polygon_mask([[value for point in points for value in point]], SIZE)
    for y in range(SIZE[0]):
        crossings = crossings_of(points, y + 0.5)
        for x in range(SIZE[1]):
            if all(abs(crossing - x - 0.5) > 1e-9 for crossing in crossings):
                assert found[y, x] == (sum(crossing > x + 0.5 for crossing in crossings) % 2 == 1)


def crossings_of(points, y):
    """Where a row meets the outline."""
    edges = zip(points, [*points[1:], points[0]], strict=True)
    return [x1 + (y - y1) * (x2 - x1) / (y2 - y1) for (x1, y1), (x2, y2) in edges if (y1 > y) != (y2 > y)]


def soft():
    drawn = Image.new("L", (36, 24))
    ImageDraw.Draw(drawn).ellipse((4, 4, 20, 18), fill=255)
    return drawn.resize(SIZE[::-1], Image.Resampling.BILINEAR)


def coloured():
    picture = Image.new("RGB", SIZE[::-1])
    picture.putpixel((2, 2), (255, 0, 0))
    return picture


TOO_LONG = {"size": SIZE, "counts": [3, 40, 50]}


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (np.zeros(SIZE, bool), ["empty"]),
        (np.ones(SIZE, bool), ["full"]),
        (np.where(np.arange(9) < 4, 255, 1) * np.ones(SIZE, int), ["full"]),
        (MASK[:, :-1], ["6 x 8", "6 x 9"]),
        (MASK[None], ["(1, 6, 9)"]),
        (MASK * 8, ["holds 8"]),
        (np.where(MASK, np.nan, 0.0), ["holds nan"]),
        (soft(), ["soft edges"]),
        (coloured(), ["colours", "black and white"]),
        (TOO_LONG, ["93", "54"]),
        ({"size": SIZE, "counts": "~~"}, ["no RLE"]),
        ({"size": SIZE}, ["counts"]),
        ([[1, 2, 3, 4, 5, float("inf")]], ["finite"]),
        ("absent.png", ["absent.png"]),
        (None, ["NoneType"]),
        (Image.new("RGBA", SIZE[::-1]), ["transparent"]),
    ],
)
def test_what_can_not_be_used(mask, told):
    assert_refuses(errors.AnnotationError, told, lambda: annotation_of({"cat": mask}, SIZE))


def test_what_does_not_go_together():
    assert_refuses(errors.AnnotationError, ["overlap", "14"], lambda: annotation_of({"cat": MASK, "dog": MASK}, SIZE))
    assert_refuses(errors.AnnotationError, ["'Cat'", "twice"], lambda: annotation_of({"Cat": MASK, "cat": ~MASK}, SIZE))
    assert_refuses(errors.AnnotationError, ["empty"], lambda: annotation_of({}, SIZE))
    assert_refuses(errors.AnnotationError, ["'<start>'"], lambda: annotation_of({"<start>": MASK}, SIZE))


def test_an_overlap_is_told_of_beside_what_is_ignored():
    """The other class's outline is ignored, as in Pascal VOC, and comes first in reading order."""
    ringed = np.zeros(SIZE, dtype=np.uint8)
    ringed[0:4, 0:4], ringed[1:3, 1:3] = 255, 1
    over = np.zeros(SIZE, dtype=bool)
    over[0:3, 0:3] = True
    told = ["'cat'", "'dog'", "overlap in 4 pixels"]
    assert_refuses(errors.AnnotationError, told, lambda: annotation_of({"cat": ringed, "dog": over}, SIZE))


@pytest.mark.user_error
@pytest.mark.parametrize(
    ("labels", "classes", "told"),
    [
        (MASK * 7, ("cat",), ["holds 7", "cat"]),
        (MASK * 1, ("cat", "Cat"), ["twice"]),
        (MASK * 1, ("<background>",), ["<background>"]),
        (MASK * 0.5, ("cat",), ["float64", "whole numbers"]),
    ],
)
def test_an_annotation_made_by_hand_is_checked(labels, classes, told):
    assert_refuses(errors.AnnotationError, told, lambda: annotation_of(Annotation(labels, classes), SIZE))


def test_rows_of_numbers_are_no_polygons():
    """Their width is even and above 6, as a polygon's numbers of coordinates are."""
    wide = np.zeros((4, 8), dtype=np.uint8)
    wide[1:3, 2:5] = 1
    assert np.array_equal(annotation_of({"cat": wide.tolist()}, (4, 8)).labels, wide)


@pytest.mark.parametrize("value", [7.9, float("nan")])
def test_label_maps_have_whole_numbers(value):
    labels = np.where(MASK, value, 0.0)
    told = ["label map", "not whole"]
    assert_refuses(errors.AnnotationError, told, lambda: annotation_from_labels(labels, {7: "cat"}, SIZE, others=True))


@pytest.mark.parametrize(("number", "told"), [(255, "ignored"), (0, "background")])
def test_a_class_has_a_number_of_its_own(number, told):
    names = {number: "cat"}
    assert_refuses(errors.AnnotationError, ["'cat'", told], lambda: annotation_from_labels(MASK * 255, names, SIZE))


def _drawn():
    """A mask of 12 x 16 pixels, 0 and 255, whose object touches no edge and has no symmetry."""
    values = np.zeros((12, 16), dtype=np.uint8)
    values[2:5, 3:12] = values[5:9, 3:6] = 255
    return values


def _labels(mask, size=(12, 16)):
    return annotation_of({"cat": mask}, size).labels


@pytest.mark.parametrize("swapped", [False, True])
def test_a_palette_of_black_and_white_is_read_by_its_colours(swapped):
    """Where a program writes white as number 0, as Pillow's own quantize does, the numbers alone would invert it."""
    values = _drawn()
    picture = Image.fromarray((values > 0).astype(np.uint8) ^ np.uint8(swapped), "L").convert("P")
    colours = [0, 0, 0, 255, 255, 255]
    picture.putpalette(colours[::-1] if swapped else colours)
    assert np.array_equal(_labels(picture), values > 0)
    assert np.array_equal(_labels(Image.fromarray(values).quantize(2)), values > 0)


def test_a_palette_of_other_colours_is_read_by_its_numbers():
    """Pascal VOC's masks: number 1 is dark red."""
    picture = Image.fromarray((_drawn() > 0).astype(np.uint8), "L").convert("P")
    picture.putpalette([0, 0, 0, 128, 0, 0])
    assert np.array_equal(_labels(picture), _drawn() > 0)


@pytest.mark.parametrize("name", ["mask.png", "mask.webp"])
def test_a_mask_that_says_how_it_is_turned_is_turned(tmp_path, name):
    turned = Image.fromarray(_drawn()).rotate(90, expand=True)  # stored on its side
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned.save(tmp_path / name, exif=exif, lossless=True)
    assert np.array_equal(_labels(str(tmp_path / name)), _drawn() > 0)


def test_sixteen_bits_and_half_precision():
    deep = Image.fromarray(_drawn().astype(np.uint16) * np.uint16(257))
    assert np.array_equal(_labels(deep), _drawn() > 0)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert np.array_equal(_labels(torch.from_numpy(_drawn() > 0).to(dtype)), _drawn() > 0)


def test_polygons_of_too_few_points_are_left_out_and_told(caplog):
    square = [3.0, 2.0, 12.0, 2.0, 12.0, 8.0, 3.0, 8.0]
    with caplog.at_level("WARNING", logger="ovam"):
        found = _labels([[1.0, 1.0, 2.0, 2.0], square])
    assert np.array_equal(found, _labels([square]))
    assert "1 polygons of fewer than three points" in caplog.text
    with pytest.raises(errors.AnnotationError):
        _labels([[1.0, 1.0, 2.0, 2.0]])


def test_a_mask_that_would_start_a_program_is_not_opened(tmp_path):
    Image.fromarray(_drawn()).convert("RGB").save(tmp_path / "mask.png", "EPS")
    with pytest.raises(errors.AnnotationError, match=r"mask\.png, can't be read|mask\.png can't be read"):
        _labels(str(tmp_path / "mask.png"))
