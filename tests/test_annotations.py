"""Masks in every form that people have them in, against plain loops; and what can't be used."""

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageFilter

import reference
from ovam import errors
from ovam.masks.annotations import IGNORE, Annotation, annotation_from_labels, annotation_of
from ovam.masks.coco import polygon_mask, rle_mask, unpacked
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
        assert np.array_equal(rle_mask({"size": [height, width], "counts": counts}, mask.shape, "mask"), mask)


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


def coloured():
    picture = Image.new("RGB", SIZE[::-1])
    picture.putpixel((2, 2), (255, 0, 0))
    return picture


TOO_LONG = {"size": SIZE, "counts": [3, 40, 50]}


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros(SIZE, bool), ["empty"]),
        (np.ones(SIZE, bool), ["full"]),
        (np.where(np.arange(9) < 4, 255, 1) * np.ones(SIZE, int), ["full"]),
        (MASK[:, :-1], ["6 x 8", "6 x 9"]),
        (MASK[None], ["(1, 6, 9)"]),
        (MASK * 8, ["holds 8"]),
        (np.where(MASK, np.nan, 0.0), ["holds nan"]),
        (MASK * np.uint8(65), ["holds 65", "mask_threshold=0.5"]),
        (coloured(), ["colours", "black and white"]),
        (TOO_LONG, ["93", "54"]),
        ({"size": SIZE, "counts": "~~"}, ["no RLE"]),
        ({"size": SIZE}, ["counts"]),
        ([[1, 2, 3, 4, 5, float("inf")]], ["finite"]),
        ("absent.png", ["absent.png"]),
        (None, ["NoneType"]),
        (Image.new("RGBA", SIZE[::-1]), ["empty"]),
        (Image.new("LAB", SIZE[::-1]), ["mode LAB"]),
        ({"size": SIZE, "counts": [float("inf"), 3]}, ["no RLE", "inf is no whole number"]),
        ({"size": SIZE, "counts": [10**400, 3]}, ["no RLE"]),
        ({"size": SIZE, "counts": [53.5, 0.5]}, ["53.5 is no whole number"]),
        ({"size": SIZE, "counts": []}, ["add up to 0"]),
        ({"size": [10**6, 10**6], "counts": [10**12]}, ["1000000 x 1000000", "6 x 9"]),
        ({"size": [float("nan"), 9], "counts": [54]}, ["nan is no whole number"]),
        ([[1, 1, 1e300, 1, 1e300, 1e300]], ["about as large as the image"]),
        ([[1, 1, 10**400, 1, 4, 4]], ["no list of numbers"]),
        ([[1, 1, 2, 2], [3, 3]], ["2 polygons of fewer than three points"]),
    ],
)
def test_what_can_not_be_used(mask, message):
    assert_refuses(errors.AnnotationError, message, lambda: annotation_of({"cat": mask}, SIZE))


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
    message = ["'cat'", "'dog'", "overlap in 4 pixels"]
    assert_refuses(errors.AnnotationError, message, lambda: annotation_of({"cat": ringed, "dog": over}, SIZE))


@pytest.mark.user_error
@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (MASK * 7, ("cat",), ["holds 7", "cat"]),
        (MASK * 1, ("cat", "Cat"), ["twice"]),
        (MASK * 1, ("<background>",), ["<background>"]),
        (MASK * 0.5, ("cat",), ["float64", "whole numbers"]),
    ],
)
def test_an_annotation_made_by_hand_is_checked(labels, classes, message):
    assert_refuses(errors.AnnotationError, message, lambda: annotation_of(Annotation(labels, classes), SIZE))


def test_rows_of_numbers_are_no_polygons():
    """Their width is even and above 6, as a polygon's numbers of coordinates are."""
    wide = np.zeros((4, 8), dtype=np.uint8)
    wide[1:3, 2:5] = 1
    assert np.array_equal(annotation_of({"cat": wide.tolist()}, (4, 8)).labels, wide)


@pytest.mark.parametrize("value", [7.9, float("nan")])
def test_label_maps_have_whole_numbers(value):
    labels = np.where(MASK, value, 0.0)
    message = ["label map", "not whole"]
    assert_refuses(
        errors.AnnotationError, message, lambda: annotation_from_labels(labels, {7: "cat"}, SIZE, others=True)
    )


@pytest.mark.parametrize(("number", "message"), [(255, "ignored"), (0, "background")])
def test_a_class_has_a_number_of_its_own(number, message):
    names = {number: "cat"}
    assert_refuses(errors.AnnotationError, ["'cat'", message], lambda: annotation_from_labels(MASK * 255, names, SIZE))


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


@pytest.mark.parametrize(
    "greys", [((255, 255, 255), (0, 0, 0)), ((20, 20, 20), (230, 231, 230)), ((90,) * 3, (9,) * 3)]
)
def test_a_palette_of_two_greys_is_read_by_its_colours(greys):
    light = max(range(2), key=lambda i: greys[i])
    picture = Image.fromarray(np.where(_drawn() > 0, light, 1 - light).astype(np.uint8), "L").convert("P")
    picture.putpalette([part for grey in greys for part in grey])
    assert np.array_equal(_labels(picture), _drawn() > 0)


def test_a_palette_mask_that_is_white_all_over_is_full():
    white = Image.new("P", (16, 12))
    white.putpalette([255, 255, 255])
    assert_refuses(errors.AnnotationError, ["full"], lambda: _labels(white))


def _large():
    """The drawn mask at eight times its size, 96 x 128, off the blocks that JPEG compresses apart."""
    return ImageChops.offset(Image.fromarray(_drawn()).resize((128, 96), Image.Resampling.NEAREST), 3, 2)


def _soft(mask):
    return mask.filter(ImageFilter.GaussianBlur(2))


def _jpeg(picture):
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=60)
    return Image.open(stream)


def _painted(colour):
    """The mask drawn with a soft brush on a transparent ground."""
    picture = Image.new("RGBA", (128, 96), (*colour, 0))
    picture.putalpha(_soft(_large()))
    return picture


SOFT = {
    "soft edges": lambda: _soft(_large()),
    "a soft palette": lambda: _soft(_large()).convert("P"),
    "a compressed picture": lambda: _jpeg(_large()),
    "a compressed picture in colours": lambda: _jpeg(_large().convert("RGB")),
    "16 bits": lambda: Image.fromarray(np.asarray(_soft(_large())).astype(np.uint16) * np.uint16(257)),
    "an array": lambda: np.asarray(_soft(_large())),
    "white on a transparent ground": lambda: _painted((255, 255, 255)),
    "red on a transparent ground": lambda: _painted((200, 20, 20)),
    "black on a transparent ground": lambda: _painted((0, 0, 0)),
}


@pytest.mark.parametrize("kind", SOFT)
def test_masks_of_paint_programs_are_cut_in_the_middle(kind, caplog):
    with caplog.at_level("WARNING", logger="ovam"):
        found = _labels(SOFT[kind](), (96, 128))
    assert "levels between black and white in" in caplog.text
    assert "cut at 0.5" in caplog.text
    differing = found != np.asarray(_large()) // 255
    assert differing.mean() < 0.01  # the rounded corners; measured: 0.0015


def test_a_threshold_cuts_elsewhere_and_without_a_note(caplog):
    mask, white = _soft(_large()), np.asarray(_soft(_large()))
    with caplog.at_level("WARNING", logger="ovam"):
        for threshold in (0.1, 0.9):
            for form in (
                mask,
                white,
                white.astype(np.uint16) * 257,
                white / 255,
                torch.tensor(white),
                mask.convert("P"),
            ):
                found = annotation_of({"cat": form}, (96, 128), mask_threshold=threshold).labels
                assert np.array_equal(found, white > threshold * 255)
    assert not caplog.text


@pytest.mark.parametrize(
    "numbers",
    [
        [0, 8, 15, 255],  # Pascal VOC's, saved in grey; 255 counts for nothing
        [0, 128, 255],  # what is unknown between object and background
        [0, 44, 67, 255],
        [*range(0, 200, 5)],
    ],
)
def test_a_label_map_is_no_soft_mask(numbers):
    values = np.zeros((20, 20), dtype=np.uint8)
    values.flat[: 5 * len(numbers)] = np.repeat(numbers, 5)
    assert_refuses(errors.AnnotationError, ["holds"], lambda: _labels(values, (20, 20)))


def test_the_object_s_colour():
    picture = Image.new("RGB", (128, 96), (30, 60, 200))
    picture.paste((250, 200, 10), mask=_large())
    picture.paste((255, 0, 0), (0, 0, 9, 9))
    for form in (picture, picture.quantize(4), _jpeg(picture)):
        for colour in ("#fac80a", (250, 200, 10)):
            found = annotation_of({"cat": form}, (96, 128), mask_colour=colour).labels
            assert (found != np.asarray(_large()) // 255).mean() < 0.03  # measured: 0.02 of the compressed picture
    message = ["colours", "#1e3cc8", "mask_colour", "--mask-colour"]
    assert_refuses(errors.AnnotationError, message, lambda: _labels(picture, (96, 128)))
    absent = ["no pixel of mask_colour=#008000", "#1e3cc8"]
    assert_refuses(
        errors.AnnotationError, absent, lambda: annotation_of({"cat": picture}, (96, 128), mask_colour="green")
    )


@pytest.mark.user_error
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_threshold": 1.0}, "mask_threshold=1.0"),
        ({"mask_threshold": float("nan")}, "mask_threshold=nan"),
        ({"mask_threshold": "0.5"}, "mask_threshold='0.5'"),
        ({"mask_colour": "catlike"}, "mask_colour='catlike'"),
        ({"mask_colour": (1, 2)}, "mask_colour=(1, 2)"),
        ({"mask_colour": (1, 2, 256)}, "mask_colour=(1, 2, 256)"),
        ({"mask_colour": "red", "mask_threshold": 0.5}, "expected one of the two"),
    ],
)
def test_options_of_masks_are_checked(options, message):
    assert_refuses(errors.OptionError, [message], lambda: annotation_of({"cat": MASK}, SIZE, **options))


def test_a_threshold_leaves_nothing_to_be_ignored():
    message = ["both mask_threshold and ignore=7"]
    assert_refuses(
        errors.AnnotationError, message, lambda: annotation_of({"cat": MASK * 255}, SIZE, ignore=7, mask_threshold=0.5)
    )


def _runs(mask):
    return {"size": list(mask.shape), "counts": reference.run_lengths(mask)}


def coco_file():
    """Two images, one with two cats, a dog and a crowd's run lengths."""
    other = np.zeros(SIZE, dtype=bool)
    other[5, 7:] = True
    return {
        "images": [
            {"id": 4, "file_name": "train/one.jpg", "height": SIZE[0], "width": SIZE[1]},
            {"id": 5, "file_name": "train/two.jpg", "height": 3, "width": 3},
        ],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
        "annotations": [
            {"image_id": 4, "category_id": 17, "segmentation": _runs(MASK)},
            {"image_id": 4, "category_id": 18, "segmentation": [[0, 0, 2, 0, 2, 1, 0, 1]]},
            {"image_id": 4, "category_id": 17, "iscrowd": 1, "segmentation": _runs(other)},
            {"image_id": 5, "category_id": 17, "segmentation": [[0, 0, 2, 0, 2, 2]]},
        ],
    }, MASK | other


@pytest.mark.parametrize("image", ["one.jpg", "photos/one.jpg", "one.png"])
def test_a_whole_file_of_coco_is_asked_for_an_image_and_a_category(tmp_path, image):
    content, expected = coco_file()
    (tmp_path / "instances.json").write_text(json.dumps(content))
    for given_as in (content, tmp_path / "instances.json"):
        assert np.array_equal(annotation_of({"Cat": given_as}, SIZE, image=image).labels, expected)
    both = annotation_of({"cat": content, "dog": content}, SIZE, image=image)
    assert both.labels[0, :2].tolist() == [2, 2]


def labelme_file():
    return {
        "version": "5.4",
        "imagePath": "one.jpg",
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
        "shapes": [
            {"label": "cat", "points": [[3, 1], [7, 1], [7, 4], [3, 4]], "shape_type": "polygon"},
            {"label": "cat", "points": [[2, 1], [3, 3]], "shape_type": "rectangle"},
            {"label": "dog", "points": [[0, 0], [1, 1]], "shape_type": "circle"},
        ],
    }


def test_a_file_of_labelme_is_asked_for_a_label():
    assert np.array_equal(annotation_of({"cat": labelme_file()}, SIZE, image="one.jpg").labels, MASK)


def _without(key):
    content, _ = coco_file()
    return {name: value for name, value in content.items() if name != key}


@pytest.mark.parametrize(
    ("content", "name", "image", "message"),
    [
        (coco_file()[0], "bird", "one.jpg", ["no object 'bird' in 'train/one.jpg'", "'cat', 'dog'"]),
        (coco_file()[0], "bird", "one.jpg", ["expected at least one; there is 'cat', 'dog'"]),
        (coco_file()[0], "cat", "two.jpg", ["3 x 3", "6 x 9"]),
        (coco_file()[0], "cat", "three.jpg", ["no image 'three.jpg'", "'train/one.jpg'"]),
        (coco_file()[0], "cat", None, ["a file of 2 images", "image='name.jpg'"]),
        (_without("images"), "cat", "one.jpg", ["missing or wrong entry", "'images'"]),
        (_without("categories"), "cat", "one.jpg", ["missing or wrong entry", "'categories'"]),
        (_without("images") | {"images": "one.jpg"}, "cat", "one.jpg", ["missing or wrong entry"]),
        (labelme_file(), "bird", "one.jpg", ["no object 'bird'", "'cat', 'dog'"]),
        (labelme_file(), "dog", "one.jpg", ["'circle'", "polygons and rectangles"]),
        (labelme_file() | {"imageWidth": 4}, "cat", "one.jpg", ["6 x 4", "6 x 9"]),
    ],
)
def test_what_a_whole_file_lacks_is_named(content, name, image, message):
    assert_refuses(errors.AnnotationError, message, lambda: annotation_of({name: content}, SIZE, image=image))


def test_deep_json_is_refused(tmp_path):
    (tmp_path / "mask.json").write_text("[" * 100_000)
    assert_refuses(errors.AnnotationError, ["mask.json", "nested"], lambda: _labels(tmp_path / "mask.json"))


def test_sixteen_bits_and_half_precision():
    deep = Image.fromarray(_drawn().astype(np.uint16) * np.uint16(257))
    for mask in (deep, np.asarray(deep), np.asarray(deep).astype(np.int32)):
        assert np.array_equal(_labels(mask), _drawn() > 0)
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn):
        assert np.array_equal(_labels(torch.from_numpy(_drawn() > 0).to(dtype)), _drawn() > 0)


def test_polygons_of_too_few_points_are_left_out_and_told(caplog):
    square = [3.0, 2.0, 12.0, 2.0, 12.0, 8.0, 3.0, 8.0]
    with caplog.at_level("WARNING", logger="ovam"):
        found = _labels([[1.0, 1.0, 2.0, 2.0], square])
    assert np.array_equal(found, _labels([square]))
    assert "1 polygons of fewer than three points" in caplog.text


def test_a_mask_that_would_start_a_program_is_not_opened(tmp_path):
    Image.fromarray(_drawn()).convert("RGB").save(tmp_path / "mask.png", "EPS")
    with pytest.raises(errors.AnnotationError, match=r"mask\.png, can't be read|mask\.png can't be read"):
        _labels(str(tmp_path / "mask.png"))
