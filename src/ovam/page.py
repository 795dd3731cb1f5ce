"""Lay pictures out on paper: side by side with captions, or one with a legend below it."""

import bisect
import math
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ovam.colours import Colour
from ovam.lettering import lettered

_PAPER, _INK, _FAINT = (250, 250, 250), (25, 25, 30), (115, 115, 125)
_LETTERS = 4000  # of a text on one line: no picture has room for more
_MARGIN, _CAPTION = 12, 28


def grid(tiles: Sequence[tuple[str, str, Image.Image]], columns: int) -> Image.Image:
    """Pictures of one size in rows, each with its name on the left below it and a note on the right."""
    width, height = tiles[0][2].size
    cell = (width + _MARGIN, height + _CAPTION + _MARGIN)
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * cell[0] + _MARGIN, rows * cell[1] + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    range_font = ImageFont.load_default(13)
    for i, (name, note, tile) in enumerate(tiles):
        left, top = _MARGIN + i % columns * cell[0], _MARGIN + i // columns * cell[1]
        sheet.paste(tile, (left, top))
        baseline = top + height + 20
        note_width = draw.textlength(note, range_font)
        draw.text((left + width - note_width, baseline), note, _FAINT, range_font, anchor="ls")
        name, font = lettered(name, 17)
        draw.text((left, baseline), _fitting(draw, name, font, width - note_width - 8), _INK, font, "ls")
    return sheet


def with_legend(picture: Image.Image, entries: Sequence[tuple[str, Colour]]) -> Image.Image:
    """The picture on paper, and below it swatches with their texts, in as many lines as they need."""
    line, swatch, ruler = 24, 14, ImageDraw.Draw(picture)
    room = picture.width - swatch - 6
    drawn = [lettered(text, 15) for text, _ in entries]
    texts = [(_fitting(ruler, text, font, room), font) for text, font in drawn]
    places, left, row = list[tuple[int, int]](), 0, 0
    for text, font in texts:
        width = swatch + 6 + math.ceil(ruler.textlength(text, font)) + 16
        if left and left + width - 16 > picture.width:
            left, row = 0, row + 1
        places.append((left, row))
        left += width
    height = picture.height + 2 * _MARGIN + (row + 1) * line + 6
    page = Image.new("RGB", (picture.width + 2 * _MARGIN, height), _PAPER)
    page.paste(picture, (_MARGIN, _MARGIN))
    draw = ImageDraw.Draw(page)
    for (text, font), (_, colour), (left, row) in zip(texts, entries, places, strict=True):
        x, y = _MARGIN + left, _MARGIN + picture.height + 10 + row * line
        draw.rectangle((x, y, x + swatch, y + swatch), colour)
        draw.text((x + swatch + 6, y + swatch - 2), text, _INK, font, anchor="ls")
    return page


def _fitting(draw: ImageDraw.ImageDraw, text: str, font: Any, width: int | float) -> str:
    """The text on one line, cut with three dots where it is too wide."""
    text = " ".join(text[:_LETTERS].split())
    if draw.textlength(text, font) <= width:
        return text
    lengths = range(1, len(text) + 1)
    fitting = bisect.bisect_right(lengths, width, key=lambda length: draw.textlength(text[:length] + "...", font))
    return text[:fitting].rstrip() + "..."
