"""Bottle, chair, dining table, potted plant, sofa and tv monitor."""

from collections.abc import Callable

import numpy as np

from ovam.mini.scenes.sketch import Colour, Figure, Sketch, near, shade
from ovam.mini.scenes.vocabulary import COLOURS

_PAINTS = {
    "bottle": ("green", "brown", "blue", "white", "red"),
    "chair": ("brown", "red", "blue", "grey", "green"),
    "dining table": ("brown", "white", "grey", "black"),
    "potted plant": ("brown", "orange", "blue", "white"),
    "sofa": ("red", "blue", "green", "grey", "brown", "yellow"),
    "tv monitor": ("black", "grey", "white"),
}


def draw_furnishing(name: str, rng: np.random.Generator, style: int) -> Figure:
    """A thing of the house; `style` sets its form."""
    word = str(rng.choice(_PAINTS[name]))
    sketch = Sketch()
    _FURNISHINGS[name](sketch, rng, style, near(rng, COLOURS[word]))
    return sketch.figure(word if name != "potted plant" else None)


def _bottle(sketch: Sketch, rng: np.random.Generator, style: int, paint: Colour) -> None:
    width, neck = (0.13, 0.16, 0.11, 0.18, 0.14)[style], (0.05, 0.06, 0.04, 0.055, 0.07)[style]
    shoulder = (0.36, 0.30, 0.44, 0.40, 0.26)[style]
    sketch.box(0.5 - neck, 0.08, 0.5 + neck, shoulder + 0.1, paint, r=0.015)
    sketch.box(0.5 - neck - 0.01, 0.05, 0.5 + neck + 0.01, 0.12, shade(paint, 0.5), r=0.01)
    sketch.ellipse(0.5, shoulder + 0.08, width, 0.1, paint)
    sketch.box(0.5 - width, shoulder + 0.08, 0.5 + width, 0.95, paint, r=0.03)
    sketch.box(0.5 - width, 0.56, 0.5 + width, 0.78, near(rng, (232, 224, 200), 20))
    sketch.line([(0.5 - 0.6 * width, shoulder + 0.1), (0.5 - 0.6 * width, 0.54)], 0.02, shade(paint, 1.5))


def _chair(sketch: Sketch, rng: np.random.Generator, style: int, paint: Colour) -> None:
    dark, seat = shade(paint, 0.7), (0.56, 0.58, 0.60, 0.54, 0.58)[style]
    for left in (0.28, 0.66):
        sketch.box(left, seat, left + 0.05, 0.94, dark, "legs")
    for left in (0.20, 0.74):
        sketch.box(left, seat, left + 0.05, 0.98, paint, "legs")
    if style in (0, 2, 4):  # slats or a full back
        for i in range(3 if style != 2 else 2):
            sketch.box(0.26, 0.10 + i * 0.14, 0.74, 0.18 + i * 0.14, paint, r=0.02)
        for left in (0.24, 0.70):
            sketch.box(left, 0.06, left + 0.055, seat, dark)
    else:
        sketch.box(0.24, 0.06, 0.76, seat - 0.02, dark, r=0.1 if style == 1 else 0.03)
    sketch.polygon([(0.26, seat - 0.06), (0.74, seat - 0.06), (0.82, seat + 0.04), (0.18, seat + 0.04)], paint)


def _table(sketch: Sketch, rng: np.random.Generator, style: int, paint: Colour) -> None:
    dark = shade(paint, 0.65)
    if style in (1, 3):  # a disc on one leg
        sketch.box(0.46, 0.36, 0.54, 0.82, dark, "legs")
        sketch.ellipse(0.5, 0.84, 0.2 if style == 1 else 0.3, 0.06, dark, "legs")
        sketch.ellipse(0.5, 0.34, 0.46, 0.12, dark)
        sketch.ellipse(0.5, 0.31, 0.46, 0.12, paint)
        return
    height = (0.40, 0, 0.48, 0, 0.34)[style]
    for left, foot in ((0.08, 0.9), (0.26, 0.78), (0.70, 0.78), (0.87, 0.9)):
        sketch.box(left, height, left + 0.05, foot, dark, "legs")
    sketch.polygon([(0.18, height - 0.14), (0.82, height - 0.14), (0.98, height + 0.02), (0.02, height + 0.02)], paint)
    sketch.box(0.02, height + 0.02, 0.98, height + 0.08, shade(paint, 0.8))


def _plant(sketch: Sketch, rng: np.random.Generator, style: int, paint: Colour) -> None:
    green = near(rng, ((70, 150, 70), (50, 130, 60), (110, 160, 60), (60, 140, 100), (90, 170, 80))[style])
    for i in range((7, 5, 9, 6, 8)[style]):
        lean, reach = rng.uniform(-0.34, 0.34), rng.uniform(0.08, 0.4)
        tip = (0.5 + lean, reach)
        if style in (0, 3):
            width = 0.05
            leaf = [(0.5, 0.64), (0.5 + lean * 0.5 - width, 0.36), tip, (0.5 + lean * 0.5 + width, 0.4)]
            sketch.polygon(leaf, shade(green, rng.uniform(0.8, 1.2)))
        else:
            sketch.line([(0.5, 0.64), tip], 0.022, shade(green, 0.8))
            sketch.ellipse(*tip, 0.085, 0.07, shade(green, rng.uniform(0.8, 1.2)))
        if style in (2, 4) and i % 2:
            sketch.ellipse(*tip, 0.05, 0.05, near(rng, (230, 90, 120), 40))
    sketch.polygon([(0.28, 0.62), (0.72, 0.62), (0.65, 0.96), (0.35, 0.96)], paint, "pot")
    sketch.box(0.25, 0.58, 0.75, 0.67, shade(paint, 0.85), "pot", r=0.01)


def _sofa(sketch: Sketch, rng: np.random.Generator, style: int, paint: Colour) -> None:
    dark, top = shade(paint, 0.72), (0.30, 0.26, 0.36, 0.32, 0.24)[style]
    for x in (0.14, 0.82):
        sketch.box(x, 0.76, x + 0.05, 0.86, (80, 56, 38), "legs")
    sketch.box(0.10, top, 0.90, 0.70, dark, r=0.08 if style != 3 else 0.02)
    count = (2, 3, 2, 3, 1)[style]
    width = 0.72 / count
    for i in range(count):
        sketch.box(0.145 + i * width, 0.52, 0.135 + (i + 1) * width, 0.66, shade(paint, 1.1), r=0.03)
    sketch.box(0.08, 0.64, 0.92, 0.79, paint, r=0.03)
    for left in (0.03, 0.84):
        sketch.box(left, 0.46, left + 0.13, 0.79, paint, r=0.05 if style != 3 else 0.015)


def _tv(sketch: Sketch, rng: np.random.Generator, style: int, paint: Colour) -> None:
    top, bottom = ((0.16, 0.74), (0.22, 0.76), (0.20, 0.80), (0.12, 0.70), (0.24, 0.72))[style]
    if style in (1, 2):  # an old set with aerials
        sketch.line([(0.36, 0.04), (0.5, top), (0.66, 0.06)], 0.02, (60, 60, 64))
    if style in (0, 3, 4):
        sketch.box(0.46, bottom, 0.54, 0.86, shade(paint, 0.8))
        sketch.box(0.30, 0.85, 0.70, 0.90, shade(paint, 0.8), r=0.01)
    sketch.box(0.05, top, 0.95, bottom, paint, r=0.03)
    right = 0.90 if style != 2 else 0.74
    screen = near(rng, ((90, 130, 180), (60, 70, 80), (110, 150, 140), (40, 44, 60), (150, 120, 150))[style], 30)
    sketch.box(0.10, top + 0.05, right, bottom - 0.06, screen, r=0.02)
    shine = [(0.14, bottom - 0.1), (0.14, top + 0.1), (0.4, top + 0.1)]
    sketch.polygon(shine, shade(screen, 1.35))


_FURNISHINGS: dict[str, Callable[[Sketch, np.random.Generator, int, Colour], None]] = {
    "bottle": _bottle,
    "chair": _chair,
    "dining table": _table,
    "potted plant": _plant,
    "sofa": _sofa,
    "tv monitor": _tv,
}
FURNISHINGS = tuple(_FURNISHINGS)
