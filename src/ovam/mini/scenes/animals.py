"""Cat, dog, cow, horse and sheep: one body for all five, told apart by their heads."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from ovam.mini.scenes.sketch import Colour, Figure, Sketch, near, shade
from ovam.mini.scenes.vocabulary import COLOURS

_COATS = ("white", "black", "brown", "grey", "orange")
_DARK, _PINK, _PALE = (35, 32, 34), (226, 160, 150), (240, 228, 214)

_SHAPES: tuple[tuple[tuple[float, float], ...], ...] = (
    # by style: half length and half height of the body, length of the legs, size of the head
    ((0.25, 0.30), (0.14, 0.17), (0.16, 0.20), (0.17, 0.20)),
    ((0.28, 0.32), (0.12, 0.14), (0.22, 0.26), (0.15, 0.17)),
    ((0.22, 0.25), (0.16, 0.18), (0.10, 0.13), (0.19, 0.21)),
    ((0.24, 0.28), (0.11, 0.13), (0.27, 0.30), (0.16, 0.18)),
    ((0.27, 0.31), (0.17, 0.19), (0.12, 0.15), (0.21, 0.23)),
)


def draw_animal(name: str, rng: np.random.Generator, style: int, *, close: bool = False) -> Figure:
    """An animal from the side, looking at the viewer; with `close`, nothing but its head."""
    word = str(rng.choice(_COATS))
    coat = near(rng, COLOURS[word])
    sketch = Sketch()
    if close:
        _HEADS[name](sketch, 0.5, 0.55, rng.uniform(0.32, 0.36), coat)
        _mark(sketch, style, coat)
        return _stretched(sketch.figure(word), style)
    length, height, legs, head = (rng.uniform(*bounds) for bounds in _SHAPES[style])
    x, y = 0.56, 0.86 - legs - height * 0.8
    _body(sketch, rng, (x, y, length, height), legs, coat)
    _HEADS[name](sketch, x - length * 0.95, y - height * 0.75 - 0.02, head, coat)
    return sketch.figure(word)


def _body(sketch: Sketch, rng: np.random.Generator, at: tuple[float, ...], legs: float, coat: Colour) -> None:
    x, y, length, height = at
    foot = y + height * 0.8 + legs
    for offset, tone in ((-0.78, 0.8), (0.55, 0.8), (-0.55, 0.95), (0.78, 0.95)):
        left = x + offset * length - 0.03
        sketch.box(left, y, left + 0.062, foot, shade(coat, tone), "legs", r=0.02)
    tail = [(x + length * 0.9, y - height * 0.3), (x + length * 1.15, y - height * rng.uniform(-0.8, 1.4))]
    sketch.line(tail, 0.04, shade(coat, 0.85), "tail")
    sketch.ellipse(x, y, length, height, coat, "body")
    if rng.random() < 0.4:
        patch = shade(coat, 0.55) if sum(coat) > 330 else shade(coat, 2.2)
        for dx, dy in rng.uniform(-0.6, 0.6, (3, 2)):
            sketch.ellipse(x + dx * length, y + dy * height, length * 0.2, height * 0.3, patch, "body")


def _mark(sketch: Sketch, style: int, coat: Colour) -> None:
    """What tells the close heads of the later styles from those of the first two."""
    tone = shade(coat, 0.5) if sum(coat) > 330 else shade(coat, 2.3)
    if style == 2:
        sketch.ellipse(0.5, 0.36, 0.05, 0.09, tone, "head")
    if style == 3:
        for side in (-1, 1):
            sketch.ellipse(0.5 + side * 0.17, 0.66, 0.07, 0.05, _PINK, "head")
    if style == 4:
        sketch.box(0.30, 0.76, 0.70, 0.82, (190, 40, 50), "head", r=0.02)


def _stretched(figure: Figure, style: int) -> Figure:
    wide = (1.0, 1.0, 0.85, 1.2, 0.78)[style]
    if wide == 1.0:
        return figure
    size = (round(figure.image.width * wide), figure.image.height)
    parts = figure.parts.resize(size, Image.Resampling.NEAREST)
    return Figure(figure.image.resize(size, Image.Resampling.BILINEAR), parts, figure.colour)


def _eyes(sketch: Sketch, x: float, y: float, r: float, apart: float) -> None:
    for side in (-1, 1):
        sketch.ellipse(x + side * apart * r, y, 0.13 * r, 0.15 * r, (250, 250, 250), "head")
        sketch.ellipse(x + side * apart * r, y, 0.09 * r, 0.12 * r, _DARK, "head")


def _cat(sketch: Sketch, x: float, y: float, r: float, coat: Colour) -> None:
    for side in (-1, 1):
        ear = [
            (x + side * 0.95 * r, y - 1.25 * r),
            (x + side * 0.15 * r, y - 0.75 * r),
            (x + side * 0.95 * r, y - 0.2 * r),
        ]
        sketch.polygon(ear, shade(coat, 0.8), "head")
    sketch.ellipse(x, y, r, 0.85 * r, coat, "head")
    _eyes(sketch, x, y - 0.1 * r, r, 0.42)
    sketch.polygon([(x - 0.12 * r, y + 0.2 * r), (x + 0.12 * r, y + 0.2 * r), (x, y + 0.36 * r)], _PINK, "head")
    for side in (-1, 1):
        for lift in (-0.12, 0.1):
            whisker = [(x + side * 0.25 * r, y + 0.32 * r), (x + side * 0.95 * r, y + (0.32 + lift) * r)]
            sketch.line(whisker, 0.02, _PALE if sum(coat) < 330 else _DARK, "head")


def _dog(sketch: Sketch, x: float, y: float, r: float, coat: Colour) -> None:
    sketch.ellipse(x, y, 0.82 * r, 0.92 * r, coat, "head")
    for side in (-1, 1):
        sketch.ellipse(x + side * 0.85 * r, y + 0.05 * r, 0.27 * r, 0.7 * r, shade(coat, 0.6), "head")
    sketch.ellipse(x, y + 0.42 * r, 0.5 * r, 0.42 * r, _PALE, "head")
    sketch.ellipse(x, y + 0.2 * r, 0.2 * r, 0.14 * r, _DARK, "head")
    sketch.ellipse(x, y + 0.7 * r, 0.14 * r, 0.18 * r, _PINK, "head")
    _eyes(sketch, x, y - 0.25 * r, r, 0.34)


def _cow(sketch: Sketch, x: float, y: float, r: float, coat: Colour) -> None:
    for side in (-1, 1):
        horn = [
            (x + side * 0.35 * r, y - 0.6 * r),
            (x + side * 0.95 * r, y - 1.15 * r),
            (x + side * 0.7 * r, y - 0.45 * r),
        ]
        sketch.polygon(horn, (232, 220, 190), "horns")
        sketch.ellipse(x + side * 0.98 * r, y - 0.3 * r, 0.32 * r, 0.17 * r, shade(coat, 0.75), "head")
    sketch.ellipse(x, y, 0.75 * r, 0.9 * r, coat, "head")
    sketch.ellipse(x, y + 0.55 * r, 0.72 * r, 0.4 * r, _PINK, "head")
    for side in (-1, 1):
        sketch.ellipse(x + side * 0.28 * r, y + 0.55 * r, 0.1 * r, 0.13 * r, shade(_PINK, 0.5), "head")
    _eyes(sketch, x, y - 0.25 * r, r, 0.38)


def _horse(sketch: Sketch, x: float, y: float, r: float, coat: Colour) -> None:
    mane = shade(coat, 0.45) if sum(coat) > 330 else shade(coat, 2.4)
    for side in (-1, 1):
        ear = [
            (x + side * 0.5 * r, y - 1.35 * r),
            (x + side * 0.1 * r, y - 0.8 * r),
            (x + side * 0.55 * r, y - 0.7 * r),
        ]
        sketch.polygon(ear, coat, "head")
    sketch.ellipse(x, y - 0.2 * r, 0.55 * r, 0.8 * r, coat, "head")
    sketch.box(x - 0.4 * r, y - 0.2 * r, x + 0.4 * r, y + 1.05 * r, coat, "head", r=0.3 * r)
    sketch.ellipse(x, y + 0.85 * r, 0.45 * r, 0.32 * r, shade(coat, 0.65), "head")
    sketch.polygon([(x - 0.22 * r, y - 1.1 * r), (x + 0.22 * r, y - 1.1 * r), (x, y - 0.1 * r)], mane, "head")
    sketch.polygon([(x + 0.4 * r, y - 0.9 * r), (x + 0.85 * r, y - 0.1 * r), (x + 0.5 * r, y + 0.6 * r)], mane, "head")
    _eyes(sketch, x, y - 0.2 * r, r, 0.36)


def _sheep(sketch: Sketch, x: float, y: float, r: float, coat: Colour) -> None:
    for side in (-1, 1):
        sketch.ellipse(x + side * 0.85 * r, y, 0.36 * r, 0.17 * r, shade(coat, 0.6), "head")
    sketch.ellipse(x, y + 0.1 * r, 0.58 * r, 0.85 * r, (72, 64, 62) if sum(coat) > 330 else (220, 205, 190), "head")
    for dx, dy in ((-0.55, -0.55), (0.55, -0.55), (-0.2, -0.85), (0.25, -0.85), (0.0, -0.5), (-0.7, -0.2), (0.7, -0.2)):
        sketch.ellipse(x + dx * r, y + dy * r, 0.34 * r, 0.3 * r, coat, "head")
    _eyes(sketch, x, y, r, 0.26)


_HEADS: dict[str, Callable[[Sketch, float, float, float, Colour], None]] = {
    "cat": _cat,
    "dog": _dog,
    "cow": _cow,
    "horse": _horse,
    "sheep": _sheep,
}
ANIMALS = tuple(_HEADS)
