"""The world: captioned scenes with exact label maps, each a pure function of its seed.

v0: one to three sprites of Pascal VOC's classes and up to two unnamed distractors on a textured ground,
under a sky or before a wall in half of the scenes. Seeds of training, validation and test never meet.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from ovam.mini.captions import CLASS_WORDS, GROUND_WORDS, caption
from ovam.mini.sprites import load_sprites

Split = Literal["train", "validation", "test"]
SPLITS: dict[Split, range] = {
    "train": range(10**8),
    "validation": range(10**8, 2 * 10**8),
    "test": range(2 * 10**8, 3 * 10**8),
}
CLASSES = tuple(CLASS_WORDS)
GROUNDS = tuple(GROUND_WORDS)
LABELS: dict[str, int] = {name: i for i, name in enumerate((*CLASSES, *GROUNDS), start=1)}
"""Label of each class (1 to 20, VOC's own) and ground (21 and up); 0 is whatever has no name."""

_BACKDROP_OF = dict.fromkeys(("grass", "sand", "water", "snow", "road"), "sky") | {"floor": "wall"}
_COLOURS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "grass": ((50, 130, 45), (115, 190, 85)),
    "sand": ((215, 185, 125), (242, 218, 165)),
    "water": ((25, 85, 170), (75, 155, 230)),
    "snow": ((222, 232, 244), (250, 250, 255)),
    "road": ((80, 80, 86), (132, 132, 138)),
    "floor": ((120, 72, 40), (168, 110, 66)),
    "sky": ((125, 185, 242), (190, 222, 250)),
    "wall": ((196, 168, 150), (228, 206, 190)),
}
_SIZE_OF_COUNT = {1: (0.45, 0.78), 2: (0.36, 0.54), 3: (0.30, 0.42)}  # share of the picture's side
_COUNT_SHARES = (0.35, 0.45, 0.20)


@dataclass(frozen=True)
class SceneObject:
    """One named thing: its class, which sprite, and its box (left, top, right, bottom) in pixels."""

    name: str
    sprite: int
    box_xyxy: tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """A rendered scene. `image` is (height, width, 3) uint8, `labels` (height, width) uint8 of `LABELS`."""

    seed: int
    image: np.ndarray
    labels: np.ndarray
    caption: str
    objects: tuple[SceneObject, ...]
    ground: str
    backdrop: str | None

    def mask(self, name: str) -> np.ndarray:
        """Where the class or ground `name` is visible: bool, (height, width)."""
        return self.labels == LABELS[name]


def seed_of(split: Split, index: int) -> int:
    """Seed of scene `index` of a split.

    Raises:
        ValueError: the split is unknown.
        IndexError: the index lies outside the split, so its seed would belong to another one.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    return SPLITS[split][index]


def _texture(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    low, high = (np.array(colour, dtype=np.float32) for colour in _COLOURS[name])
    noise = np.zeros((size, size), dtype=np.float32)
    for cells, weight in ((4, 0.35), (16, 0.35), (size // 2, 0.3)):
        coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
        noise += weight * np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    return low + (high - low) * noise.clip(0, 1)[..., None]


def _background(rng: np.random.Generator, size: int) -> tuple[Image.Image, np.ndarray, str, str | None]:
    ground = str(rng.choice(list(_BACKDROP_OF)))
    backdrop = _BACKDROP_OF[ground] if rng.random() < 0.5 else None
    pixels, labels = _texture(rng, ground, size), np.full((size, size), LABELS[ground], dtype=np.uint8)
    if backdrop is not None:
        horizon = int(size * rng.uniform(0.2, 0.5))
        pixels[:horizon] = _texture(rng, backdrop, size)[:horizon]
        labels[:horizon] = LABELS[backdrop]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGBA"), labels, ground, backdrop


def _posed(rng: np.random.Generator, sprite: Image.Image, side: float) -> Image.Image:
    """The sprite at `side` pixels along its longer side, mirrored and tilted by chance."""
    factor = side / max(sprite.size)
    shape = (max(2, round(sprite.width * factor)), max(2, round(sprite.height * factor)))
    posed = sprite.resize(shape, Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        posed = posed.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return posed.rotate(rng.uniform(-10, 10), expand=True, resample=Image.Resampling.BICUBIC)


def _place(rng: np.random.Generator, slot: int, slots: int, sprite: Image.Image, size: int) -> tuple[int, int]:
    """Left and top: somewhere in the slot's upright strip of the picture, lower rather than higher."""
    strip = size / slots
    left = rng.uniform(slot * strip, (slot + 1) * strip) - sprite.width / 2
    top = rng.uniform(0.25, 1.0) * (size - sprite.height)
    return int(np.clip(left, 0, max(0, size - sprite.width))), int(max(0, top))


def _paste(image: Image.Image, labels: np.ndarray, sprite: Image.Image, at: tuple[int, int], label: int) -> None:
    image.alpha_composite(sprite, at)
    left, top = at
    window = labels[top : top + sprite.height, left : left + sprite.width]
    alpha = np.asarray(sprite.getchannel("A"))[: window.shape[0], : window.shape[1]]
    window[alpha > 127] = label


def render(seed: int, *, size: int = 128, count: int | None = None) -> Scene:
    """Render the scene of a seed.

    Args:
        seed: Names the scene; `seed_of` gives the seeds of each split.
        size: Side of the square picture in pixels.
        count: Number of named objects, 1 to 3; drawn by chance when None.
    """
    rng = np.random.default_rng(seed)
    image, labels, ground, backdrop = _background(rng, size)
    drawn = int(rng.choice((1, 2, 3), p=_COUNT_SHARES))
    number = drawn if count is None else count
    names = [str(name) for name in rng.choice(CLASSES, size=number, replace=False)]
    sprites = load_sprites()
    for _ in range(int(rng.integers(0, 3))):
        toy = sprites["distractor"][int(rng.integers(len(sprites["distractor"])))]
        toy = _posed(rng, toy, size * rng.uniform(0.12, 0.22))
        _paste(image, labels, toy, _place(rng, 0, 1, toy, size), 0)
    objects = []
    for slot, name in enumerate(names):
        which = int(rng.integers(len(sprites[name])))
        sprite = _posed(rng, sprites[name][which], size * rng.uniform(*_SIZE_OF_COUNT[number]))
        left, top = _place(rng, slot, number, sprite, size)
        _paste(image, labels, sprite, (left, top), LABELS[name])
        objects.append(SceneObject(name, which, (left, top, left + sprite.width, top + sprite.height)))
    text = caption(rng, names, ground, backdrop)
    pixels = np.asarray(image.convert("RGB"))
    return Scene(seed, pixels, labels, text, tuple(objects), ground, backdrop)
