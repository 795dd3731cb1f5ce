"""Pictures: what is bright is where the map is high, numbers survive in data pictures, and nothing overflows."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ovam import lettering, pictures
from ovam.errors import NotFiniteError, OptionError
from ovam.maps.result import AttentionMaps
from ovam.masks.result import Segmentation
from ovam.mini.scenes import render
from ovam.prompt import Span

PAPER = (250, 250, 250)


@pytest.fixture
def image():
    return Image.fromarray(render(3, split="train").image)


def corner_map(height=8, width=8):
    """High in the upper left quarter, low elsewhere."""
    word_map = torch.full((height, width), 0.1)
    word_map[: height // 2, : width // 2] = 0.3
    return word_map


def png(picture):
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def brightness(picture, box):
    return np.asarray(picture.crop(box), dtype=float).mean()


def segmentation(labels, words):
    scores, spans = torch.zeros(len(words), *labels.shape), tuple(Span(word, (i,)) for i, word in enumerate(words))
    maps = AttentionMaps(scores, words, spans, labels.shape, {})
    return Segmentation(torch.as_tensor(labels), words, scores, {}, 0.5, maps)


def test_overlay_is_bright_where_the_map_is_high_also_when_height_and_width_differ():
    picture = pictures.overlay(Image.new("RGB", (160, 96), (90, 90, 90)), corner_map(6, 10), short_side=1)
    assert picture.size == (160, 96)
    inside = brightness(picture, (0, 0, 60, 40))
    outside = [brightness(picture, box) for box in ((100, 0, 160, 40), (0, 60, 60, 96), (100, 60, 160, 96))]
    assert inside > 2 * max(outside)


def test_overlay_shows_a_map_in_its_own_range(image):
    word_map = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    scaled = (word_map * 2 + 4).contiguous()  # powers of two, so that stretching gives nearly the same numbers
    difference = np.abs(
        np.asarray(pictures.overlay(image, word_map), int) - np.asarray(pictures.overlay(image, scaled), int)
    )
    assert difference.max() <= 1  # float32 rounding of 4 + x, below one level of 255


def test_overlay_without_opacity_shows_no_map_and_with_all_of_it_no_picture(image):
    noise = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    none = [png(pictures.overlay(image, m, opacity=0.0)) for m in (noise, corner_map())]
    full = [png(pictures.overlay(i, noise, opacity=1.0)) for i in (image, Image.new("RGB", image.size, "red"))]
    assert none[0] == none[1]
    assert full[0] == full[1]


@pytest.mark.parametrize("rounding", [0.0, 1e-6])
def test_a_constant_map_is_drawn_as_the_lowest_value(image, rounding):
    word_map = torch.full((4, 4), 0.7)
    word_map[0] += rounding
    assert np.asarray(pictures.overlay(image, word_map, opacity=1.0)).max() <= 4


def test_colours_get_lighter_all_the_way():
    colours = pictures.colourised(np.linspace(0, 1, 64))
    luminance = colours @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()
    assert luminance[0] < 3
    assert luminance[-1] > 240


@pytest.mark.parametrize(
    ("size", "expected"),
    [((128, 128), (256, 256)), ((300, 260), (300, 260)), ((32, 48), (256, 384)), ((8, 900), (8, 900))],
)
def test_small_images_are_enlarged_by_a_whole_factor_and_strips_not_without_end(size, expected):
    assert pictures.overlay(Image.new("RGB", size), corner_map()).size == expected


@pytest.mark.parametrize(
    ("word_map", "error", "message"),
    [
        (torch.zeros(2, 8, 8), OptionError, r"\(2, 8, 8\)"),
        (torch.zeros(0, 8), OptionError, r"\(0, 8\)"),
        (torch.full((8, 8), float("nan")), NotFiniteError, "NaN"),
    ],
)
def test_a_map_that_cannot_be_drawn_is_named(image, word_map, error, message):
    with pytest.raises(error, match=message):
        pictures.overlay(image, word_map)
    with pytest.raises(error, match=message):
        pictures.contact_sheet(image, {"word": word_map})


@pytest.mark.parametrize("opacity", [-0.1, 1.1])
def test_opacity_outside_its_range_is_refused(image, opacity):
    with pytest.raises(OptionError, match="opacity"):
        pictures.overlay(image, corner_map(), opacity=opacity)
    with pytest.raises(OptionError, match="opacity"):
        pictures.label_map_picture(image, segmentation(np.zeros((128, 128), int), ("a",)), opacity=opacity)


def test_the_sheet_holds_the_image_and_then_each_words_overlay_in_order(image):
    maps = {"left": corner_map(), "right": corner_map().flip(1), "below": corner_map().flip(0)}
    sheet = pictures.contact_sheet(image, maps, columns=2)
    large = image.resize((256, 256), Image.Resampling.BICUBIC)
    places = [(12, 12), (280, 12), (12, 12 + 256 + 40), (280, 12 + 256 + 40)]
    expected = [large, *(pictures.overlay(large, m) for m in maps.values())]
    for (left, top), tile in zip(places, expected, strict=True):
        assert png(sheet.crop((left, top, left + 256, top + 256))) == png(tile)


def test_a_word_that_stands_twice_gets_both_its_maps(image):
    token_maps = torch.stack([corner_map(), corner_map().flip(1)])
    spans = (Span("dog", (0,)), Span("dog", (1,)))
    maps = AttentionMaps(token_maps, ("dog", "dog"), spans, (128, 128), {})
    sheet = pictures.contact_sheet(image, maps)
    first, second = sheet.crop((280, 12, 536, 268)), sheet.crop((548, 12, 804, 268))
    assert brightness(first, (0, 0, 100, 100)) > brightness(second, (0, 0, 100, 100))
    assert brightness(first, (156, 0, 256, 100)) < brightness(second, (156, 0, 256, 100))


def test_captions_are_written_and_stay_below_their_own_picture(image):
    long = "a phrase of very many words that has no room at all below a picture of this size"
    sheet = np.asarray(pictures.contact_sheet(image, {long: corner_map(), "short": corner_map()}, caption=long))
    captions = sheet[268:296]
    for left in (12, 280, 548):
        assert (captions[:, left : left + 256] < 120).any(), "no caption"
    for left in (0, 268, 536, 804):
        assert (captions[:, left : left + 12] == PAPER).all(), "a caption reaches into the margin"


@pytest.mark.parametrize("fonts", [lettering.FONTS, ()])
@pytest.mark.parametrize("words", [("猫", "犬"), ("кот", "дом"), ("γάτα", "σκύλος"), ("été", "ôtô"), ("🐶", "🐱")])
def test_captions_of_any_script_can_be_told_apart(image, words, fonts, monkeypatch):
    """A font draws the same box for every letter that it lacks."""
    monkeypatch.setattr(lettering, "FONTS", fonts)
    sheets = [pictures.contact_sheet(image, {word: corner_map()}, caption="x") for word in words]
    captions = [np.asarray(sheet.crop((280, 268, 536, 296))) for sheet in sheets]
    assert (captions[0] != captions[1]).any()


def test_letters_that_no_font_has_are_spelt(monkeypatch):
    monkeypatch.setattr(lettering, "FONTS", ())
    spelt = [lettering.lettered(word, 15)[0] for word in ("a cat", "Été", "Жук", "고양이", "猫 x")]
    assert spelt == ["a cat", "Ete", "Zheuka", "goyangi", "\\u732b x"]


def test_big_images_are_made_small_enough_for_a_sheet():
    sheet = pictures.contact_sheet(Image.new("RGB", (1024, 768)), {"a": corner_map()})
    assert sheet.size == (12 + 2 * (512 + 12), 12 + 384 + 28 + 12)


@pytest.mark.parametrize(("words", "columns", "rows"), [(4, 5, 1), (5, 3, 2), (7, 4, 2), (9, 5, 2)])
def test_rows_are_chosen_with_few_gaps(words, columns, rows):
    maps = {str(i): corner_map() for i in range(words)}
    sheet = pictures.contact_sheet(Image.new("RGB", (256, 256)), maps)
    assert sheet.size == (12 + columns * 268, 12 + rows * (256 + 40))


def test_a_sheet_of_nothing_is_refused(image):
    with pytest.raises(OptionError, match="0 maps"):
        pictures.contact_sheet(image, {})
    with pytest.raises(OptionError, match="0 columns"):
        pictures.contact_sheet(image, {"a": corner_map()}, columns=0)


def test_labels_have_colours_and_background_is_grey():
    labels = np.zeros((128, 128), dtype=np.int64)
    labels[:64, :64], labels[:64, 64:] = 1, 2
    picture = pictures.label_map_picture(Image.new("RGB", (128, 128), (200, 40, 40)), segmentation(labels, ("a", "b")))
    points = [picture.getpixel((12 + x, 12 + y)) for x, y in ((60, 60), (190, 60), (60, 190))]
    one, two, background = (np.array(point, dtype=int) for point in points)
    assert len(set(background)) == 1
    assert np.ptp(one) > 30
    assert np.abs(one - two).sum() > 60


def test_the_legend_names_background_and_every_word_on_as_many_lines_as_it_needs():
    labels, empty = np.zeros((128, 128), dtype=np.int64), Image.new("RGB", (128, 128))
    labels[:64] = 1
    few = pictures.label_map_picture(empty, segmentation(labels, ("dog",)))
    words = tuple(f"a longer phrase, number {i}" for i in range(14))
    many = pictures.label_map_picture(empty, segmentation(labels, words))
    assert many.height >= few.height + 13 * 24  # a line each
    swatches = {many.getpixel((18, 12 + 256 + 16 + 24 * line)) for line in range(15)}
    assert len(swatches) == 15, "two words share a colour, or a word has no line"
    assert PAPER not in swatches
    assert (np.asarray(many)[268:, -12:] == PAPER).all(), "a legend text reaches into the margin"


def test_the_legend_tells_each_words_share_of_the_image(monkeypatch):
    labels = np.zeros((8, 8), dtype=np.int64)
    labels[:2], labels[2] = 1, 2
    legend = []
    monkeypatch.setattr(pictures, "with_legend", lambda picture, entries: legend.extend(entries) or picture)
    pictures.label_map_picture(Image.new("RGB", (8, 8)), segmentation(labels, ("dog", "sky", "sea")))
    assert [text for text, _ in legend] == ["background 62%", "dog 25%", "sky 12%", "sea 0%"]


def test_undecided_pixels_are_pale_and_have_a_line_in_the_legend(monkeypatch):
    labels = np.zeros((8, 8), dtype=np.int64)
    labels[:2], labels[2:4] = 1, 255
    legend = []
    monkeypatch.setattr(pictures, "with_legend", lambda picture, entries: legend.extend(entries) or picture)
    shown = pictures.label_map_picture(Image.new("RGB", (8, 8)), segmentation(labels, ("dog",)), opacity=1.0)
    assert [text for text, _ in legend] == ["background 50%", "dog 25%", "undecided 25%"]
    assert np.asarray(shown)[shown.height * 3 // 8, shown.width // 2].tolist() == [224, 224, 192]


def test_an_image_of_another_size_than_its_labels_is_refused(image):
    with pytest.raises(OptionError, match="128 x 128 pixels, the label map 64 x 128"):
        pictures.label_map_picture(image, segmentation(np.zeros((64, 128), int), ("a",)))


def test_a_mask_is_white_where_it_is_true_at_its_own_size():
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 4] = True
    read = Image.open(io.BytesIO(png(pictures.mask_picture(mask))))
    assert read.mode == "L"
    assert (np.asarray(read) == mask.numpy() * 255).all()


@pytest.mark.parametrize("mask", [torch.zeros(3, 5), torch.zeros(1, 3, 5, dtype=torch.bool)])
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(OptionError, match="expected bool of"):
        pictures.mask_picture(mask)


def test_label_numbers_survive_the_file_and_have_vocs_colours():
    labels = torch.arange(256).reshape(16, 16)
    read = Image.open(io.BytesIO(png(pictures.palette_png(labels))))
    assert read.mode == "P"
    assert (np.asarray(read) == labels.numpy()).all()
    palette = np.array(read.getpalette()).reshape(-1, 3)
    # from the devkit's VOClabelcolormap: background, aeroplane, bicycle, person, tvmonitor, void
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {label: tuple(palette[label].tolist()) for label in known} == known


@pytest.mark.parametrize(
    ("labels", "message"), [([[256]], "0 to 255"), ([[-1]], "0 to 255"), ([[0.5]], "integers"), ([0], "integers")]
)
def test_labels_that_a_palette_cannot_hold_are_refused(labels, message):
    with pytest.raises(OptionError, match=message):
        pictures.palette_png(np.array(labels))


def test_equal_input_gives_equal_bytes(image):
    labels = np.asarray(render(3, split="train").labels, dtype=np.int64) % 3
    made = [
        [
            png(pictures.overlay(image, corner_map())),
            png(pictures.contact_sheet(image, {"dog": corner_map()})),
            png(pictures.label_map_picture(image, segmentation(labels, ("a", "b")))),
        ]
        for _ in range(2)
    ]
    assert made[0] == made[1]


def test_pictures_need_neither_a_model_nor_a_figure():
    code = "import sys, ovam.pictures; print({'torch', 'diffusers', 'transformers', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout.strip() == "set()"
