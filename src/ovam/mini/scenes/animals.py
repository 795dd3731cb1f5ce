"""Cat, dog, cow, horse and sheep: each with a body, a coat and a head of its own."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ovam.mini.scenes.sketch import Colour, Figure, Sketch, near, shade
from ovam.mini.scenes.vocabulary import COLOURS

_DARK, _PINK, _PALE = (35, 32, 34), (226, 160, 150), (240, 228, 214)


@dataclass(frozen=True)
class _Build:
    """Proportions of a species as shares of the square it is drawn in, and the colour words of its coat.

    Attributes:
        length: Half the length of the body.
        height: Half the height of the body.
        legs: Length of the legs below the body.
        head: Size of the head.
        neck: How far the head lies before and above the front end of the body.
        coats: Colour words.
    """

    length: float
    height: float
    legs: float
    head: float
    neck: tuple[float, float]
    coats: tuple[str, ...]


_BUILDS = {
    "cat": _Build(0.24, 0.12, 0.17, 0.19, (0.02, 0.10), ("orange", "grey", "black", "white")),
    "dog": _Build(0.25, 0.135, 0.18, 0.20, (0.03, 0.12), ("brown", "white", "black", "orange")),
    "cow": _Build(0.32, 0.19, 0.14, 0.17, (0.03, 0.04), ("white", "brown", "black")),
    "horse": _Build(0.25, 0.13, 0.30, 0.17, (0.06, 0.24), ("brown", "black", "white", "grey")),
    "sheep": _Build(0.27, 0.19, 0.13, 0.16, (0.03, 0.03), ("white", "grey", "black")),
}
_STYLES: tuple[tuple[float, float, float, float], ...] = (
    # by style: factors of half length and half height of the body, of the legs and of the head
    (1.0, 1.0, 1.0, 1.0),
    (1.08, 0.92, 1.1, 0.94),
    (0.9, 1.1, 0.8, 1.08),
    (0.98, 0.85, 1.3, 0.97),
    (1.1, 1.15, 0.7, 1.15),
)


def draw_animal(name: str, rng: np.random.Generator, style: int, *, close: bool = False) -> Figure:
    """An animal from the side, looking at the viewer; with `close`, nothing but its head."""
    build = _BUILDS[name]
    word = str(rng.choice(build.coats))
    coat = near(rng, COLOURS[word])
    sketch = Sketch()
    if close:
        _HEADS[name](sketch, 0.5, 0.55, rng.uniform(0.32, 0.36), coat)
        _mark(sketch, style, coat)
        return _stretched(sketch.figure(word), style)
    sizes = (build.length, build.height, build.legs, build.head)
    length, height, legs, head = (
        size * factor * rng.uniform(0.95, 1.05) for size, factor in zip(sizes, _STYLES[style], strict=True)
    )
    x, y = 0.58, 0.92 - legs - height * 0.8
    _legs(sketch, (x, y, length, height), legs, coat)
    _BODIES[name](sketch, rng, (x, y, length, height), coat)
    before, above = build.neck
    at = (x - length - before + 0.02, y - height * 0.45 - above)
    if name == "horse":
        _neck(sketch, (x, y, length, height), at, coat)
    _HEADS[name](sketch, *at, head, coat)
    return sketch.figure(word)


def _legs(sketch: Sketch, body: tuple[float, ...], legs: float, coat: Colour) -> None:
    x, y, length, height = body
    foot = y + height * 0.8 + legs
    for offset, tone in ((-0.78, 0.75), (0.55, 0.75), (-0.55, 0.92), (0.78, 0.92)):
        left = x + offset * length - 0.035
        sketch.box(left, y, left + 0.07, foot, shade(coat, tone), "legs", r=0.02)


def _cat_body(sketch: Sketch, rng: np.random.Generator, at: tuple[float, ...], coat: Colour) -> None:
    """Slim, with stripes and a long tail that stands up."""
    x, y, length, height = at
    end, bend = x + length, rng.uniform(0.02, 0.08)
    tail = [(end - 0.04, y), (end + 0.08, y - 0.1), (end + 0.06, y - 0.24), (end + 0.06 + bend, y - 0.34)]
    sketch.line(tail, 0.05, shade(coat, 0.85), "tail")
    sketch.ellipse(x, y, length, height, coat, "body")
    tone = shade(coat, 0.7) if sum(coat) > 330 else shade(coat, 1.8)
    for offset in (-0.1, 0.15, 0.4):
        left = x + offset * length
        sketch.line([(left, y - height * 0.92), (left + 0.01, y - height * 0.25)], 0.03, tone, "body")


def _dog_body(sketch: Sketch, rng: np.random.Generator, at: tuple[float, ...], coat: Colour) -> None:
    """A short tail that wags, a red collar, now and then a saddle."""
    x, y, length, height = at
    tail = [(x + length * 0.85, y - height * 0.4), (x + length * 1.2, y - height * rng.uniform(1.2, 1.8))]
    sketch.line(tail, 0.055, shade(coat, 0.85), "tail")
    sketch.ellipse(x, y, length, height, coat, "body")
    if rng.random() < 0.5:
        tone = shade(coat, 0.55) if sum(coat) > 330 else shade(coat, 2.2)
        sketch.ellipse(x + 0.15 * length, y - 0.35 * height, length * 0.45, height * 0.55, tone, "body")
    sketch.ellipse(x - length * 0.86, y - height * 0.25, 0.075, 0.1, (196, 40, 48), "body")


def _cow_body(sketch: Sketch, rng: np.random.Generator, at: tuple[float, ...], coat: Colour) -> None:
    """A barrel with large patches, an udder and a tasselled tail."""
    x, y, length, height = at
    tail = [(x + length * 0.95, y - height * 0.6), (x + length * 1.12, y + height * 0.9)]
    sketch.line(tail, 0.025, shade(coat, 0.85), "tail")
    sketch.ellipse(*tail[1], 0.03, 0.045, _DARK, "tail")
    sketch.ellipse(x + length * 0.35, y + height * 0.85, 0.09, 0.07, _PINK, "body")
    sketch.box(x - length, y - height, x + length, y + height, coat, "body", r=0.13)
    patch = _DARK if sum(coat) > 500 else _PALE
    for left, top in ((-0.62, -0.35), (0.1, -0.5), (0.6, 0.3), (-0.2, 0.55)):
        dx, dy = rng.uniform(-0.12, 0.12, 2)
        sketch.ellipse(x + (left + dx) * length, y + (top + dy) * height, length * 0.23, height * 0.36, patch, "body")


def _horse_body(sketch: Sketch, rng: np.random.Generator, at: tuple[float, ...], coat: Colour) -> None:
    """Slender, with a long tail of hair that hangs down."""
    x, y, length, height = at
    start, sway = (x + length * 0.9, y - height * 0.5), rng.uniform(0.02, 0.1)
    hair = [start, (start[0] + 0.1, start[1] + 0.05), (start[0] + 0.07 + sway, start[1] + 0.32)]
    sketch.line(hair, 0.075, _mane(coat), "tail")
    sketch.ellipse(x, y, length, height, coat, "body")


def _neck(sketch: Sketch, body: tuple[float, ...], head: tuple[float, float], coat: Colour) -> None:
    x, y, length, height = body
    back, front = (x - length * 0.35, y - height * 0.6), (x - length * 0.95, y + height * 0.3)
    sketch.polygon([back, front, (head[0] - 0.05, head[1] + 0.06), (head[0] + 0.07, head[1] - 0.06)], coat, "body")
    mane = [(back[0] - 0.03, back[1]), (head[0] + 0.07, head[1] - 0.08)]
    sketch.line(mane, 0.07, _mane(coat), "body")


def _sheep_body(sketch: Sketch, rng: np.random.Generator, at: tuple[float, ...], coat: Colour) -> None:
    """A cloud of wool."""
    x, y, length, height = at
    sketch.ellipse(x + length * 1.02, y - height * 0.1, 0.06, 0.06, shade(coat, 0.9), "tail")
    turn = rng.uniform(0, 0.5)
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False) + turn
    for angle in angles:
        at_edge = (x + 0.82 * length * np.cos(angle), y + 0.78 * height * np.sin(angle))
        sketch.ellipse(*at_edge, 0.085, 0.08, shade(coat, 0.93), "body")
    sketch.ellipse(x, y, length * 0.92, height * 0.9, coat, "body")
    for dx, dy in rng.uniform(-0.5, 0.5, (5, 2)):
        sketch.ellipse(x + dx * length, y + dy * height, 0.05, 0.04, shade(coat, 0.9), "body")


def _mane(coat: Colour) -> Colour:
    return shade(coat, 0.45) if sum(coat) > 330 else shade(coat, 2.4)


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
    mane = _mane(coat)
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
_BODIES: dict[str, Callable[[Sketch, np.random.Generator, tuple[float, ...], Colour], None]] = {
    "cat": _cat_body,
    "dog": _dog_body,
    "cow": _cow_body,
    "horse": _horse_body,
    "sheep": _sheep_body,
}
ANIMALS = tuple(_HEADS)
