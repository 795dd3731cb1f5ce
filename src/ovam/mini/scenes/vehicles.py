"""Aeroplane, bicycle, boat, bus, car, motorbike and train, with the same wheels and windows wherever they have some."""

from collections.abc import Callable

import numpy as np

from ovam.mini.scenes.sketch import Colour, Figure, Sketch, near, shade
from ovam.mini.scenes.vocabulary import COLOURS

_PAINTS = ("red", "blue", "green", "yellow", "white", "black", "orange", "grey")
_METAL, _LAMP = (96, 100, 108), (250, 236, 160)


def draw_vehicle(name: str, rng: np.random.Generator, style: int) -> Figure:
    """Draw a vehicle from the side, in a random colour; `style` sets its proportions."""
    word = str(rng.choice(_PAINTS))
    sketch = Sketch()
    _VEHICLES[name](sketch, rng, style, near(rng, COLOURS[word]))
    return sketch.figure(word)


def _car(sketch: Sketch, rng: np.random.Generator, style: int, paint: Colour) -> None:
    roof, bonnet = (0.36, 0.34, 0.30, 0.40, 0.33)[style], (0.52, 0.50, 0.50, 0.54, 0.46)[style]
    back = (0.20, 0.12, 0.28, 0.24, 0.10)[style]
    cabin = [(back, bonnet), (back + 0.1, roof), (0.62, roof), (0.76, bonnet)]
    sketch.polygon(cabin, shade(paint, 0.85))
    sketch.box(0.05, bonnet - 0.02, 0.95, 0.70, paint, r=0.06)
    middle = (back + 0.72) / 2
    sketch.window(back + 0.08, roof + 0.03, middle - 0.02, bonnet - 0.01)
    sketch.window(middle + 0.02, roof + 0.03, 0.66, bonnet - 0.01)
    sketch.ellipse(0.92, bonnet + 0.07, 0.03, 0.03, _LAMP)
    r = rng.uniform(0.085, 0.105)
    for x in (0.26, 0.75):
        sketch.wheel(x, 0.70, r)


def _bus(sketch: Sketch, rng: np.random.Generator, style: int, paint: Colour) -> None:
    top = (0.28, 0.22, 0.32, 0.16, 0.26)[style]
    sketch.box(0.04, top, 0.96, 0.74, paint, r=0.04)
    sketch.box(0.04, 0.60, 0.96, 0.64, shade(paint, 0.6))
    count = int(rng.integers(4, 6))
    width = 0.84 / count
    rows = ((top + 0.06, top + 0.19),) if style != 3 else ((top + 0.05, top + 0.16), (top + 0.24, top + 0.36))
    for low, high in rows:
        for i in range(count):
            sketch.window(0.08 + i * width, low, 0.08 + (i + 0.8) * width, high)
    for x in (0.22, 0.78):
        sketch.wheel(x, 0.74, rng.uniform(0.07, 0.085))


def _train(sketch: Sketch, rng: np.random.Generator, style: int, paint: Colour) -> None:
    wheels: tuple[float, ...]
    if style == 2:  # a tram with two poles
        sketch.line([(0.30, 0.30), (0.38, 0.12), (0.62, 0.12), (0.70, 0.30)], 0.02, _METAL)
        sketch.box(0.06, 0.28, 0.94, 0.70, paint, r=0.05)
        sketch.box(0.06, 0.56, 0.94, 0.70, shade(paint, 0.6), r=0.03)
        for i in range(4):
            sketch.window(0.11 + i * 0.21, 0.33, 0.27 + i * 0.21, 0.50)
        wheels = (0.30, 0.70)
    elif style == 3:  # an express with a long nose
        sketch.polygon([(0.01, 0.67), (0.12, 0.56), (0.42, 0.38), (0.99, 0.38), (0.99, 0.69), (0.01, 0.69)], paint)
        sketch.box(0.30, 0.60, 0.99, 0.63, shade(paint, 0.5))
        for i in range(6):
            sketch.window(0.46 + i * 0.085, 0.45, 0.51 + i * 0.085, 0.52)
        wheels = (0.24, 0.34, 0.80, 0.90)
    elif style == 4:  # a diesel engine, its cab in the middle
        sketch.box(0.04, 0.48, 0.96, 0.68, shade(paint, 0.85), r=0.03)
        sketch.box(0.36, 0.26, 0.64, 0.68, paint, r=0.02)
        sketch.window(0.40, 0.31, 0.49, 0.43)
        sketch.window(0.51, 0.31, 0.60, 0.43)
        sketch.box(0.10, 0.53, 0.32, 0.63, _METAL)
        sketch.box(0.68, 0.53, 0.90, 0.63, _METAL)
        wheels = (0.14, 0.26, 0.74, 0.86)
    elif style == 0:  # an engine with boiler, cab and chimney
        sketch.box(0.10, 0.40, 0.66, 0.64, paint, r=0.08)
        sketch.box(0.62, 0.24, 0.92, 0.68, shade(paint, 0.8))
        sketch.window(0.68, 0.30, 0.86, 0.44)
        sketch.polygon([(0.16, 0.22), (0.30, 0.22), (0.27, 0.42), (0.19, 0.42)], (50, 50, 54))
        sketch.polygon([(0.02, 0.74), (0.12, 0.58), (0.12, 0.74)], _METAL)
        wheels = (0.20, 0.38, 0.56, 0.80)
    else:  # a railcar with a slanted nose
        sketch.polygon([(0.02, 0.64), (0.16, 0.34), (0.98, 0.34), (0.98, 0.68), (0.02, 0.68)], paint)
        sketch.box(0.08, 0.56, 0.98, 0.60, shade(paint, 0.5))
        sketch.polygon([(0.10, 0.50), (0.17, 0.38), (0.24, 0.38), (0.24, 0.50)], (120, 160, 190), "window")
        for i in range(5):
            sketch.window(0.32 + i * 0.13, 0.40, 0.41 + i * 0.13, 0.50)
        wheels = (0.16, 0.28, 0.72, 0.84)
    r = rng.uniform(0.055, 0.075)
    sketch.box(0.06, 0.66, 0.94, 0.71, _METAL)
    for x in wheels:
        sketch.wheel(x, 0.73, r)


def _bicycle(sketch: Sketch, rng: np.random.Generator, style: int, paint: Colour) -> None:
    r = (0.2, 0.22, 0.17, 0.19, 0.21)[style]
    left, right, y = 0.24, 0.76, 0.66
    for x in (left, right):
        sketch.ring(x, y, r, 0.026, (45, 45, 50), "wheel")
        for angle in (0.3, 1.35, 2.4):
            dx, dy = 0.95 * r * np.cos(angle), 0.95 * r * np.sin(angle)
            sketch.line([(x - dx, y - dy), (x + dx, y + dy)], 0.008, (150, 152, 158), "wheel")
    seat, pedals, bar = (0.40, 0.40), (0.47, 0.66), (0.68, 0.36 if style != 3 else 0.30)
    top = (bar[0] - 0.02, 0.46) if style in (0, 2) else (0.50, 0.58)  # with or without a top tube
    for points in ((seat, pedals), (pedals, bar), (seat, top, bar), (seat, (left, y)), (pedals, (left, y))):
        sketch.line(points, 0.034, paint)
    sketch.line([bar, (right, y)], 0.034, paint)
    sketch.line([(bar[0] + 0.07, bar[1] - 0.05), bar, (bar[0] - 0.03, bar[1] - 0.05)], 0.03, (50, 50, 54))
    sketch.ellipse(seat[0], seat[1] - 0.015, 0.075, 0.024, (50, 50, 54))


def _motorbike(sketch: Sketch, rng: np.random.Generator, style: int, paint: Colour) -> None:
    r = (0.16, 0.17, 0.12, 0.14, 0.18)[style]
    for x in (0.22, 0.78):
        sketch.wheel(x, 0.70, r)
    sketch.line([(0.22, 0.70), (0.50, 0.66), (0.62, 0.50)], 0.06, _METAL)
    sketch.line([(0.78, 0.70), (0.66, 0.36)], 0.045, _METAL)
    if style in (2, 3):  # a scooter's shield and step
        sketch.polygon([(0.60, 0.36), (0.72, 0.38), (0.66, 0.72), (0.52, 0.72)], paint)
        sketch.polygon([(0.10, 0.62), (0.22, 0.46), (0.46, 0.48), (0.52, 0.70), (0.36, 0.72)], paint)
    else:
        sketch.ellipse(0.52, 0.50, 0.17, 0.09, paint)
        sketch.polygon([(0.10, 0.44), (0.44, 0.44), (0.46, 0.58), (0.26, 0.60)], shade(paint, 0.75))
        sketch.ellipse(0.49, 0.66, 0.09, 0.08, (70, 72, 78))
    sketch.line([(0.18, 0.45), (0.42, 0.45)], 0.05, (40, 40, 44))
    sketch.line([(0.58, 0.32), (0.70, 0.36)], 0.035, (40, 40, 44))
    sketch.ellipse(0.74, 0.42, 0.04, 0.045, _LAMP)


def _boat(sketch: Sketch, rng: np.random.Generator, style: int, paint: Colour) -> None:
    sketch.polygon([(0.04, 0.64), (0.96, 0.64), (0.82, 0.84), (0.18, 0.84)], paint)
    sketch.line([(0.06, 0.66), (0.94, 0.66)], 0.03, shade(paint, 0.65))
    if style in (0, 3):  # a sailing boat, with one sail or two
        sketch.line([(0.48, 0.10), (0.48, 0.66)], 0.026, (110, 78, 48))
        sketch.polygon([(0.51, 0.12), (0.51, 0.60), (0.86, 0.60)], (246, 244, 236))
        if style == 0:
            sketch.polygon([(0.45, 0.18), (0.45, 0.60), (0.16, 0.60)], (228, 224, 214))
    else:
        height = (0, 0.34, 0.46, 0, 0.26)[style]
        sketch.box(0.26, height, 0.74, 0.64, (240, 240, 238), r=0.02)
        for i in range(3):
            sketch.window(0.31 + i * 0.14, height + 0.05, 0.41 + i * 0.14, height + 0.14)
        if style != 2:
            sketch.box(0.54, height - 0.16, 0.66, height, shade(paint, 0.8))


def _aeroplane(sketch: Sketch, rng: np.random.Generator, style: int, paint: Colour) -> None:
    thick = (0.085, 0.075, 0.1, 0.07, 0.095)[style]
    sketch.polygon([(0.06, 0.50), (0.02, 0.24), (0.12, 0.24), (0.26, 0.48)], shade(paint, 0.8))
    sketch.polygon([(0.42, 0.46), (0.56, 0.24), (0.64, 0.24), (0.58, 0.46)], shade(paint, 0.65))
    sketch.ellipse(0.5, 0.5, 0.46, thick, paint)
    for i in range(5):
        sketch.window(0.34 + i * 0.09, 0.46, 0.385 + i * 0.09, 0.495)
    sketch.polygon([(0.84, 0.45), (0.94, 0.48), (0.82, 0.49)], (120, 160, 190), "window")
    wing = 0.82 if style != 4 else 0.74
    sketch.polygon([(0.38, 0.53), (0.60, 0.53), (0.40, wing), (0.26, wing)], shade(paint, 0.75))
    if style in (1, 2):  # propellers instead of jets
        sketch.line([(0.965, 0.36), (0.965, 0.64)], 0.022, (50, 50, 54))
    else:
        sketch.ellipse(0.46, 0.66, 0.075, 0.035, _METAL)


_VEHICLES: dict[str, Callable[[Sketch, np.random.Generator, int, Colour], None]] = {
    "aeroplane": _aeroplane,
    "bicycle": _bicycle,
    "boat": _boat,
    "bus": _bus,
    "car": _car,
    "motorbike": _motorbike,
    "train": _train,
}
VEHICLES = tuple(_VEHICLES)
