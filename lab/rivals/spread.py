"""Maps spread by self-attention, for those who look at the picture that way."""

import torch
from torch.nn import functional as F

from ovam.tokens.class_maps import ClassMaps
from ovam.trace.quantised import floats
from ovam.trace.trace import Trace


def spread(trace: Trace, maps: ClassMaps, side: int) -> ClassMaps:
    """Each pixel's value becomes the mean of the pixels that it attends to, at a grid of the kept self-attention.

    Args:
        trace: With self-attention of that grid.
        maps: At any grid.
        side: Height of the grid; all its blocks count the same.

    Returns:
        (class, side, width), in the range that the maps had.
    """
    blocks = [block for block in trace.self_attention.values() if block.grid[0] == side]
    weights = torch.stack([floats(block.values["cond"]) for block in blocks]).mean(0)
    coarse = F.interpolate(maps[None], size=blocks[0].grid, mode="area")[0]
    return (coarse.flatten(1) @ weights.mT).unflatten(1, blocks[0].grid)
