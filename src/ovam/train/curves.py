"""Draw the curves of a training: one panel above the other, with Pillow alone."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _FAINT, _GRID = (250, 250, 250), (25, 25, 30), (115, 115, 125), (226, 226, 230)
_LINE, _MARK = (47, 111, 205), (222, 98, 27)
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 860, 250, 64, 20, 34, 34
_LETTERS = 14

Curve = Sequence[tuple[float | int, float | int]]
"""Points (step, value) by rising step."""


def curves(panels: Sequence[tuple[str, Curve]], *, mark: float | int | None = None) -> Image.Image:
    """Draw a panel for each curve; all panels have the same axis of steps.

    Args:
        panels: Title and points of each panel.
        mark: Step that a line marks, such as that of the best checkpoint.
    """
    sheet = Image.new("RGB", (_WIDTH, _HEIGHT * len(panels)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    steps = [step for _, points in panels for step, _ in points]
    for number, (title, points) in enumerate(panels):
        finite = [(step, value) for step, value in points if math.isfinite(value)]
        _panel(draw, number * _HEIGHT, title, finite, (0, max(steps, default=1) or 1), mark)
    return sheet


def ticks(low: float | int, high: float | int, about: int = 4) -> list[float]:
    """Return about `about` round numbers that cover a range.

    Example:
        >>> ticks(0.13, 0.92)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = (high - low) or abs(high) or 1.0
    rough = span / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = min((unit * factor for factor in (1, 2, 5, 10)), key=lambda each: abs(each - rough))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def _panel(
    draw: ImageDraw.ImageDraw,
    top: int,
    title: str,
    points: Curve,
    steps: tuple[float | int, float | int],
    mark: float | int | None,
) -> None:
    font, values = ImageFont.load_default(_LETTERS), [value for _, value in points] or [0.0, 1.0]
    marks = ticks(min(values), max(values))
    box = (_LEFT, top + _TOP, _WIDTH - _RIGHT, top + _HEIGHT - _BOTTOM)

    def place(step: float | int, value: float | int) -> tuple[float, float]:
        across = (step - steps[0]) / (steps[1] - steps[0])
        up = (value - marks[0]) / (marks[-1] - marks[0])
        return box[0] + across * (box[2] - box[0]), box[3] - up * (box[3] - box[1])

    for value in marks:
        y = place(steps[0], value)[1]
        draw.line((box[0], y, box[2], y), _GRID)
        draw.text((box[0] - 8, y), f"{value:g}", _FAINT, font, anchor="rm")
    for step in (each for each in ticks(*steps, 6) if each <= steps[1]):
        draw.text((place(step, marks[0])[0], box[3] + 8), f"{step:g}", _FAINT, font, anchor="mt")
    if mark is not None:
        x = place(mark, marks[0])[0]
        draw.line((x, box[1], x, box[3]), _MARK)
    draw.text((box[0], top + 8), title, _INK, font)
    line = [place(*point) for point in points]
    if len(line) > 1:
        draw.line(line, _LINE, 2, joint="curve")
    for x, y in line if len(line) <= 60 else ():
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), _LINE)
