"""Grounds and what is above their horizon: textures of several scales, with patches in the colours of things."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from ovam.mini.scenes.sketch import Colour
from ovam.mini.scenes.vocabulary import LABELS

BACKDROP_OF = dict.fromkeys(("grass", "sand", "water", "snow", "road", "rails"), "sky") | {"floor": "wall"}
_COLOURS: dict[str, tuple[Colour, Colour]] = {
    "grass": ((45, 120, 40), (125, 195, 90)),
    "sand": ((205, 172, 112), (244, 220, 168)),
    "water": ((20, 78, 160), (85, 165, 232)),
    "snow": ((214, 224, 238), (252, 252, 255)),
    "road": ((72, 72, 78), (138, 138, 144)),
    "floor": ((112, 68, 38), (178, 120, 74)),
    "sky": ((120, 178, 238), (200, 226, 250)),
    "wall": ((186, 156, 140), (232, 212, 196)),
    "rails": ((104, 94, 84), (160, 148, 134)),
}
_TINT = 18  # how far a scene's ground may lie from its usual colour, each channel
_HORIZON_SHARE = 0.55


def noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise in [0, 1], (size, size), with `cells` bumps a side."""
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).clip(0, 1)


def _grain(rng: np.random.Generator, size: int) -> np.ndarray:
    return 0.4 * noise(rng, size, 4) + 0.35 * noise(rng, size, 16) + 0.25 * noise(rng, size, size // 2)


def _waves(rng: np.random.Generator, size: int) -> np.ndarray:
    rows = np.arange(size)[:, None] / size + 0.05 * noise(rng, size, 5)
    return (0.5 + 0.5 * np.sin(rows * rng.uniform(60, 100))) * 0.5 + 0.5 * _grain(rng, size)


def _blades(rng: np.random.Generator, size: int) -> np.ndarray:
    tall = Image.fromarray(rng.random((size // 8, size), dtype=np.float32))
    return 0.55 * _grain(rng, size) + 0.45 * np.asarray(tall.resize((size, size), Image.Resampling.BILINEAR))


def _planks(rng: np.random.Generator, size: int) -> np.ndarray:
    boards = rng.random(16)[(np.arange(size) * 16 // size)]
    seams = (np.arange(size) * 16 % size < 16) * 0.6
    return (0.5 * _grain(rng, size) + 0.4 * boards[:, None] + 0.1 - seams[:, None]).clip(0, 1)


def _bricks(rng: np.random.Generator, size: int) -> np.ndarray:
    if rng.random() < 0.5:
        return _grain(rng, size) * 0.5 + 0.4
    y, x = np.mgrid[:size, :size]
    row = y * 10 // size
    seams = (y * 10 % size < 10) | ((x * 5 + row % 2 * size // 2) % size < 6)
    return (0.45 + 0.5 * _grain(rng, size) - 0.5 * seams).clip(0, 1)


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    fall = np.linspace(0, 0.7, size)[:, None]
    return (fall + 1.6 * (noise(rng, size, 5) - 0.62).clip(0, 1) + 0.1 * noise(rng, size, 16)).clip(0, 1.4)


_TEXTURES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "grass": _blades,
    "water": _waves,
    "floor": _planks,
    "wall": _bricks,
    "sky": _clouds,
}


def _texture(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    low, high = (np.array(colour, dtype=np.float32) for colour in _COLOURS[name])
    tint = rng.uniform(-_TINT, _TINT, 3).astype(np.float32)
    shares = _TEXTURES.get(name, _grain)(rng, size)[..., None]
    pixels = low + tint + (high - low) * shares
    return _rails(rng, pixels, size) if name == "rails" else pixels


def _rails(rng: np.random.Generator, pixels: np.ndarray, size: int) -> np.ndarray:
    """Sleepers and a pair of rails across the gravel."""
    y, x = np.mgrid[:size, :size] / size
    for height in (rng.uniform(0.6, 0.72), rng.uniform(0.84, 0.92)):
        pixels[(np.abs(y - height) < 0.035) & (x * 9 % 1 < 0.4)] = (92, 62, 42)
        for offset in (-0.02, 0.02):
            pixels[np.abs(y - height - offset) < 0.008] = (196, 200, 208)
    return pixels


def _patch(rng: np.random.Generator, pixels: np.ndarray, colour: np.ndarray) -> None:
    """Blots of one colour over a part of the ground: leaves, rugs, stones."""
    size = len(pixels)
    field = noise(rng, size, int(rng.integers(5, 9)))
    blots = field > np.quantile(field, rng.uniform(0.75, 0.92))
    strength = rng.uniform(0.6, 0.95)
    pixels[blots] = (1 - strength) * pixels[blots] + strength * colour


def paint_ground(
    rng: np.random.Generator, ground: str, size: int, colours: Sequence[np.ndarray], camouflage: float
) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Paint a ground and, in half of the scenes, what is above its horizon.

    Args:
        rng: Source of every choice.
        ground: Name of the ground.
        size: Side in pixels.
        colours: Colours of the scene's things, in which patches may be painted.
        camouflage: Chance that they are.

    Returns:
        Pixels (size, size, 3) float32 in [0, 255]; labels (size, size) uint8; the backdrop's name or None.
    """
    pixels, labels = _texture(rng, ground, size), np.full((size, size), LABELS[ground], dtype=np.uint8)
    if rng.random() < camouflage:
        for colour in colours:
            _patch(rng, pixels, colour)
    backdrop = BACKDROP_OF.get(ground) if rng.random() < _HORIZON_SHARE else None
    if backdrop is not None:
        horizon = int(size * rng.uniform(0.2, 0.5))
        pixels[:horizon] = _texture(rng, backdrop, size)[:horizon]
        labels[:horizon] = LABELS[backdrop]
    return pixels.clip(0, 255), labels, backdrop
