"""Domain B: other drawings, other grounds and another camera. It takes the part of real photographs in tests.

Mini is never trained with it. Its things are Fluent emoji (MIT licence), except the dining table, for which there is no
emoji.
"""

import numpy as np
from PIL import Image, ImageFilter

from ovam.mini.scenes.sketch import Colour
from ovam.mini.scenes.vocabulary import LABELS

FLUENT: dict[str, tuple[str, ...]] = {
    "aeroplane": ("airplane", "small-airplane"),
    "bicycle": ("bicycle",),
    "bird": ("bird", "parrot", "duck", "eagle", "owl"),
    "boat": ("sailboat", "speedboat", "ferry", "passenger-ship"),
    "bottle": ("bottle-with-popping-cork", "lotion-bottle"),
    "bus": ("bus", "oncoming-bus"),
    "car": ("automobile", "sport-utility-vehicle", "taxi"),
    "cat": ("cat", "cat-face", "black-cat"),
    "chair": ("chair",),
    "cow": ("cow", "cow-face"),
    "dog": ("dog", "dog-face", "guide-dog"),
    "horse": ("horse", "horse-face"),
    "motorbike": ("motorcycle", "motor-scooter"),
    "person": ("person-standing", "person-walking", "woman-dancing", "man-dancing"),
    "potted plant": ("potted-plant",),
    "sheep": ("ewe", "ram"),
    "sofa": ("couch-and-lamp",),
    "train": ("locomotive", "high-speed-train", "tram-car"),
    "tv monitor": ("television", "desktop-computer"),
}
HEADS = frozenset(name for names in FLUENT.values() for name in names if name.endswith("-face"))
FLUENT_DISTRACTORS: dict[str, str] = {
    "apple": "red-apple",
    "ball": "soccer-ball",
    "gift": "wrapped-gift",
    "umbrella": "umbrella",
    "balloon": "balloon",
    "box": "package",
    "key": "key",
    "mushroom": "mushroom",
    "melon": "watermelon",
    "star": "star",
    "drum": "drum",
    "bucket": "bucket",
    "teddy": "teddy-bear",
    "clock": "alarm-clock",
    "crown": "crown",
    "guitar": "guitar",
    "pumpkin": "jack-o-lantern",
    "cactus": "cactus",
    "lamp": "light-bulb",
}
_COLOURS: dict[str, tuple[Colour, Colour]] = {
    "grass": ((70, 110, 60), (150, 170, 90)),
    "sand": ((180, 150, 110), (225, 205, 175)),
    "water": ((40, 100, 120), (120, 180, 190)),
    "snow": ((200, 205, 215), (240, 240, 240)),
    "road": ((60, 62, 66), (120, 116, 112)),
    "floor": ((140, 110, 90), (200, 180, 150)),
    "sky": ((150, 170, 200), (225, 225, 230)),
    "wall": ((150, 160, 150), (215, 215, 200)),
    "rails": ((90, 86, 84), (150, 142, 134)),
}


def texture(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    """Paint a ground of irregular cells, each with its own shade: (size, size, 3) float32."""
    points = rng.random((int(rng.integers(30, 90)), 2)) * size
    y, x = np.mgrid[:size, :size]
    distances = np.hypot(y[..., None] - points[:, 0], (x[..., None] - points[:, 1]) * rng.uniform(0.4, 1.6))
    nearest = np.sort(distances, axis=-1)[..., :2]
    shades = rng.random(len(points))[distances.argmin(-1)]
    seam = (nearest[..., 1] - nearest[..., 0] < 1.2) * 0.3
    low, high = (np.array(colour, dtype=np.float32) for colour in _COLOURS[name])
    shares = (0.25 + 0.6 * shades - seam + rng.normal(0, 0.06, shades.shape)).clip(0, 1)
    return (low + (high - low) * shares[..., None]).astype(np.float32)


def paint_ground(rng: np.random.Generator, ground: str, size: int) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Paint a ground as in the other splits, with other textures and a slanted horizon."""
    from ovam.mini.scenes.grounds import BACKDROP_OF

    pixels, labels = texture(rng, ground, size), np.full((size, size), LABELS[ground], dtype=np.uint8)
    backdrop = BACKDROP_OF.get(ground) if rng.random() < 0.6 else None
    if backdrop is not None:
        y, x = np.mgrid[:size, :size] / size
        above = y < rng.uniform(0.2, 0.5) + rng.uniform(-0.15, 0.15) * (x - 0.5)
        pixels[above], labels[above] = texture(rng, backdrop, size)[above], LABELS[backdrop]
    return pixels.clip(0, 255), labels, backdrop


def photograph(rng: np.random.Generator, image: Image.Image) -> np.ndarray:
    """Make a picture look like one of another camera: a colour cast, dark corners, blur, another contrast, grain."""
    size = image.width
    blurred = image.convert("RGB").filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.1) * size / 128))
    pixels = np.asarray(blurred, dtype=np.float32)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    corners = 1 - rng.uniform(0.1, 0.4) * (x**2 + y**2) / 2
    lit = (pixels - 128) * rng.uniform(0.85, 1.2) + 128 + rng.uniform(-18, 18, 3)
    return (lit * corners[..., None] + rng.normal(0, rng.uniform(2, 7), pixels.shape)).clip(0, 255).astype(np.uint8)
