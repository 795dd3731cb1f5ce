"""Drawing a thing together with the exact map of its parts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ovam.mini.scenes.vocabulary import PARTS

Colour = tuple[int, int, int]
Point = tuple[float, float]
_SIDE = 256


@dataclass(frozen=True)
class Figure:
    """A thing that was drawn, cut to its bounds.

    Attributes:
        image: RGBA.
        parts: Its part map, of the same size, numbered by `PARTS`, or `UNKNOWN_PART`.
        colour: Its colour word, where it has one.
    """

    image: Image.Image
    parts: Image.Image
    colour: str | None = None


class Sketch:
    """A square to draw on, in coordinates from 0 (left, top) to 1; each shape is drawn into the part map as well."""

    def __init__(self) -> None:
        self._image = Image.new("RGBA", (_SIDE, _SIDE))
        self._parts = Image.new("L", (_SIDE, _SIDE))
        self._pen, self._part_pen = ImageDraw.Draw(self._image), ImageDraw.Draw(self._parts)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour, part: str | None = None) -> None:
        """Draw an ellipse with this centre and these half axes."""
        box = [v * _SIDE for v in (x - rx, y - ry, x + rx, y + ry)]
        self._pen.ellipse(box, fill=(*fill, 255))
        self._part_pen.ellipse(box, fill=PARTS.get(part or "", 0))

    def ring(self, x: float, y: float, r: float, width: float, fill: Colour, part: str | None = None) -> None:
        """Draw a ring: a circle's outline, which is `width` wide towards the centre."""
        box = [v * _SIDE for v in (x - r, y - r, x + r, y + r)]
        self._pen.ellipse(box, outline=(*fill, 255), width=round(width * _SIDE))
        self._part_pen.ellipse(box, outline=PARTS.get(part or "", 0), width=round(width * _SIDE))

    def polygon(self, points: Sequence[Point], fill: Colour, part: str | None = None) -> None:
        scaled = [(x * _SIDE, y * _SIDE) for x, y in points]
        self._pen.polygon(scaled, fill=(*fill, 255))
        self._part_pen.polygon(scaled, fill=PARTS.get(part or "", 0))

    def box(
        self, left: float, top: float, right: float, bottom: float, fill: Colour, part: str | None = None, r: float = 0
    ) -> None:
        """Draw a rectangle whose corners have the radius `r`."""
        corners = [v * _SIDE for v in (left, top, right, bottom)]
        self._pen.rounded_rectangle(corners, radius=r * _SIDE, fill=(*fill, 255))
        self._part_pen.rounded_rectangle(corners, radius=r * _SIDE, fill=PARTS.get(part or "", 0))

    def line(self, points: Sequence[Point], width: float, fill: Colour, part: str | None = None) -> None:
        scaled, thick = [(x * _SIDE, y * _SIDE) for x, y in points], round(width * _SIDE)
        self._pen.line(scaled, fill=(*fill, 255), width=thick, joint="curve")
        self._part_pen.line(scaled, fill=PARTS.get(part or "", 0), width=thick, joint="curve")

    def wheel(self, x: float, y: float, r: float) -> None:
        """Draw tyre and hub, the same on every vehicle."""
        self.ellipse(x, y, r, r, (38, 38, 42), "wheel")
        self.ellipse(x, y, 0.5 * r, 0.5 * r, (170, 174, 180), "wheel")

    def window(self, left: float, top: float, right: float, bottom: float) -> None:
        """Draw a window, the same on every vehicle."""
        self.box(left, top, right, bottom, (176, 212, 235), "window", r=0.012)

    def figure(self, colour: str | None = None) -> Figure:
        """Return what was drawn, cut to its bounds."""
        bounds = self._image.getbbox()
        return Figure(self._image.crop(bounds), self._parts.crop(bounds), colour)


def shade(colour: Colour, factor: float) -> Colour:
    """Make a colour darker (factor below 1) or lighter (above 1)."""
    return tuple(int(min(255, max(0, channel * factor))) for channel in colour)  # type: ignore[return-value]


def near(rng: np.random.Generator, colour: Colour, spread: int = 14) -> Colour:
    """Return a random colour close to a given one."""
    return tuple(int(np.clip(c + d, 0, 255)) for c, d in zip(colour, rng.integers(-spread, spread + 1, 3), strict=True))  # type: ignore[return-value]


def arc_points(x: float, y: float, r: float, start: float, stop: float, count: int = 12) -> list[Point]:
    """Return points on a circle from one angle to another, in degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, stop, count))
    return [(x + r * math.cos(a), y + r * math.sin(a)) for a in angles]
