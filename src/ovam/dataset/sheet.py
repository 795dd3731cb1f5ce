"""A contact sheet: some pictures of a data set, each beside its mask."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ovam.colours import voc_palette
from ovam.dataset.item import Item
from ovam.dataset.layout import Dataset
from ovam.masks.mask_like import IGNORE
from ovam.page import grid

_MOST, _COLUMNS, _SIDE = 24, 4, 192


def contact_sheet(dataset: Dataset, most: int = _MOST) -> Image.Image:
    """Return a picture of evenly chosen items: each image, and beside it its mask over the grey image.

    Args:
        dataset: A data set with an item at least.
        most: Number of items on it at most.
    """
    items = chosen(dataset.items, most)
    tiles = [(item.prompt, item.split, _tile(item)) for item in items]
    return grid(tiles, min(_COLUMNS, len(tiles)))


def chosen(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most so many items, evenly spread, the first one included."""
    count = min(most, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def _tile(item: Item) -> Image.Image:
    picture = item.picture()
    labels = item.labels()
    factor = _SIDE / picture.height
    size = (max(1, round(picture.width * factor)), _SIDE)
    tile = Image.new("RGB", (2 * size[0] + 4, size[1]), "white")
    tile.paste(picture.resize(size, Image.Resampling.BICUBIC), (0, 0))
    tile.paste(_coloured(picture, labels).resize(size, Image.Resampling.NEAREST), (size[0] + 4, 0))
    return tile


def _coloured(picture: Image.Image, labels: UInt8[np.ndarray, "height width"]) -> Image.Image:
    """Return the grey picture with each class in its colour of Pascal VOC; undecided pixels are white."""
    palette = voc_palette().astype(np.float32)
    palette[IGNORE] = 255
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None].repeat(3, axis=-1)
    share = np.where(labels > 0, 0.65, 0.0)[..., None]
    mixed = (1 - share) * grey * 0.8 + share * (palette[labels] * 0.75 + 64)
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))
