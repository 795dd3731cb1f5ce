"""Bring maps to another size."""

from torch import Tensor
from torch.nn import functional as F

from ovam.shapes import Grid


def resize(maps: Tensor, size: Grid) -> Tensor:
    """Resize the last two axes bilinearly.

    Each new value is a weighted mean of old values, so the range does not grow, and sums over tokens stay the same.
    """
    if maps.shape[-2:] == size:
        return maps
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    return F.interpolate(flat, size=size, mode="bilinear", align_corners=False).reshape(*maps.shape[:-2], *size)
