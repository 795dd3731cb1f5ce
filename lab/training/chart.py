"""A chart of the rows: a bar for each test set, with the spread over the seeds, drawn with Pillow alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from lab.training.study import SETS
from ovam.page import with_legend
from ovam.train.curves import ticks

_COLOURS = dict(zip(SETS, ((47, 111, 205), (222, 98, 27)), strict=True))
_PAPER, _INK, _GRID, _SPREAD = (250, 250, 250), (25, 25, 30), (226, 226, 230), (60, 60, 66)
_LEFT, _WIDTH, _RIGHT, _ROW, _BAR, _TOP = 250, 560, 30, 34, 11, 14


def chart(lines: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Bars of the rows' mean IoU in points; a thin line goes from the worst to the best seed.

    Args:
        lines: Of `figures.table`.
    """
    most = max((line[name]["most"] for line in lines for name in SETS), default=1.0)
    marks = ticks(0, max(most, 1.0), 6)
    height = _TOP + _ROW * len(lines) + 30
    picture = Image.new("RGB", (_LEFT + _WIDTH + _RIGHT, height), _PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)

    def across(value: float) -> float:
        return _LEFT + _WIDTH * value / marks[-1]

    bottom = _TOP + _ROW * len(lines)
    for mark in marks:
        draw.line((across(mark), _TOP, across(mark), bottom), _GRID)
        draw.text((across(mark), bottom + 6), f"{mark:g}", _INK, font, anchor="mt")
    for number, line in enumerate(lines):
        top = _TOP + _ROW * number + 4
        draw.text((_LEFT - 10, top + _BAR), line["row"], _INK, font, anchor="rm")
        for place, name in enumerate(SETS):
            y = top + _BAR * place
            draw.rectangle((_LEFT, y, across(line[name]["mean"]), y + _BAR - 2), _COLOURS[name])
            middle = y + _BAR // 2 - 1
            draw.line((across(line[name]["least"]), middle, across(line[name]["most"]), middle), _SPREAD, 2)
    return with_legend(picture, [(f"mIoU on {name} scenes", _COLOURS[name]) for name in SETS])
