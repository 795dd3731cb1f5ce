"""Person, with and without a hat, and bird: the two classes that stand on two legs."""

import numpy as np

from ovam.mini.scenes.sketch import Colour, Figure, Sketch, near, shade
from ovam.mini.scenes.vocabulary import COLOURS

_CLOTHES = ("red", "blue", "green", "yellow", "white", "orange", "pink", "grey")
_SKINS = ((244, 208, 177), (224, 172, 130), (176, 120, 84), (110, 74, 52))
_HAIR = ((40, 30, 26), (110, 70, 40), (214, 176, 92), (150, 150, 152))
_PLUMES = ("blue", "red", "yellow", "brown", "black", "white", "grey")


def draw_person(rng: np.random.Generator, style: int, *, close: bool = False) -> Figure:
    """A standing person, four in ten with a hat; with `close`, head and shoulders only."""
    word = str(rng.choice(_CLOTHES))
    shirt = near(rng, COLOURS[word])
    skin, hair = (colours[int(rng.integers(4))] for colours in (_SKINS, _HAIR))
    sketch = Sketch()
    x, y, r = (0.5, 0.42, 0.24) if close else (0.5, 0.16, (0.09, 0.1, 0.085, 0.095, 0.105)[style])
    if close:
        sketch.box(0.14, 0.68, 0.86, 1.0, shirt, "body", r=0.14)
    else:
        trousers = near(rng, ((52, 62, 100), (70, 66, 62), (40, 44, 48), (120, 100, 80), (90, 60, 90))[style])
        stride = rng.uniform(0.0, 0.07)
        for side in (-1, 1):
            foot = 0.5 + side * (0.07 + stride)
            sketch.line([(0.5 + side * 0.05, 0.58), (foot, 0.95)], 0.085, trousers, "legs")
            hand = (0.5 + side * rng.uniform(0.16, 0.26), rng.uniform(0.34, 0.58))
            sketch.line([(0.5 + side * 0.1, 0.31), hand], 0.055, shade(shirt, 0.85), "body")
            sketch.ellipse(*hand, 0.03, 0.03, skin, "body")
        skirt = 0.06 if style in (1, 3) and rng.random() < 0.5 else 0.0
        sketch.polygon([(0.39, 0.28), (0.61, 0.28), (0.6 + skirt, 0.62), (0.4 - skirt, 0.62)], shirt, "body")
    sketch.box(x - 0.3 * r, y + 0.7 * r, x + 0.3 * r, y + 1.35 * r, shade(skin, 0.9), "head")
    sketch.ellipse(x, y - 0.15 * r, 1.08 * r, 1.05 * r, hair, "head")
    if style in (1, 4):  # long hair
        sketch.box(x - 1.05 * r, y - 0.1 * r, x + 1.05 * r, y + 1.1 * r, hair, "head", r=0.3 * r)
    sketch.ellipse(x, y + 0.12 * r, 0.82 * r, 0.92 * r, skin, "head")
    for side in (-1, 1):
        sketch.ellipse(x + side * 0.34 * r, y + 0.02 * r, 0.1 * r, 0.12 * r, (40, 36, 36), "head")
    if close:
        _face(sketch, style, hair)
    if rng.random() < 0.4:
        _hat(sketch, rng, x, y, r)
    return sketch.figure(word)


def _face(sketch: Sketch, style: int, hair: Colour) -> None:
    """What tells the close faces of the later styles from those of the first two."""
    if style == 2:
        sketch.box(0.36, 0.54, 0.64, 0.66, hair, "head", r=0.05)  # a beard
    if style == 3:
        for x in (0.42, 0.58):
            sketch.ring(x, 0.43, 0.07, 0.018, (30, 30, 34), "head")  # glasses
    if style == 4:
        sketch.ellipse(0.5, 0.14, 0.12, 0.09, hair, "head")  # a knot of hair


def _hat(sketch: Sketch, rng: np.random.Generator, x: float, y: float, r: float) -> None:
    felt = near(rng, COLOURS[str(rng.choice(("black", "brown", "red", "blue", "yellow")))])
    sketch.box(x - 0.75 * r, y - 1.5 * r, x + 0.75 * r, y - 0.55 * r, felt, "hat", r=0.25 * r)
    brim = 1.35 if rng.random() < 0.6 else 0.9
    sketch.ellipse(x, y - 0.55 * r, brim * r, 0.18 * r, shade(felt, 0.75), "hat")


def draw_bird(rng: np.random.Generator, style: int) -> Figure:
    """A bird from the side."""
    word = str(rng.choice(_PLUMES))
    plume = near(rng, COLOURS[word])
    sketch = Sketch()
    length, neck = (0.26, 0.24, 0.28, 0.22, 0.27)[style], (0.02, 0.04, 0.0, 0.16, 0.08)[style]
    for x in (0.44, 0.52):
        sketch.line([(x, 0.66), (x + 0.01, 0.86), (x - 0.05, 0.87)], 0.018, (222, 140, 50), "legs")
    sketch.polygon([(0.66, 0.5), (0.96, 0.42), (0.92, 0.6)], shade(plume, 0.7), "tail")
    sketch.ellipse(0.5, 0.55, length, 0.16, plume, "body")
    sketch.line([(0.36, 0.5), (0.28, 0.34 - neck)], 0.13, plume, "body")
    sketch.polygon([(0.2, 0.28 - neck), (0.04, 0.35 - neck), (0.2, 0.38 - neck)], (235, 160, 50), "head")
    sketch.ellipse(0.27, 0.32 - neck, 0.115, 0.11, shade(plume, 1.1), "head")
    sketch.ellipse(0.24, 0.3 - neck, 0.022, 0.026, (30, 30, 34), "head")
    sketch.polygon([(0.4, 0.5), (0.78, 0.48), (0.56, 0.68)], shade(plume, 0.65), "body")
    return sketch.figure(word)
