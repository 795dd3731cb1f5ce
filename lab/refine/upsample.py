"""Upsample Anything, written from its description: each cell learns, from the picture alone, how it is enlarged.

A cell reaches as far as an elliptic gaussian in the plane and one in colour say. The four numbers of each are fitted so
that the picture, shrunk to the grid, is rebuilt from its cells; then a map is enlarged in the same way.

Source:
    arXiv 2511.16301, Upsample Anything: starts, rate and number of steps are those of the released code.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lab.refine.stand_in import GRID

STEPS, RATE = 50, 0.1
PLANE, COLOUR = 16.0, 0.12  # starts, in pixels and of 1
REACH = 4  # cells: twice the start, at eight pixels a cell; a fitted gaussian that is wider is cut there


class Enlarged:
    """How maps of one picture are enlarged."""

    def __init__(self, picture: np.ndarray) -> None:
        """Fit to a picture (height, width, 3), uint8, whose sides are equal."""
        image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
        size = (GRID, GRID)
        guide = F.interpolate(image, size, mode="bilinear", align_corners=False)
        shrunk = F.interpolate(image, size, mode="bicubic", align_corners=False, antialias=True)
        self.side = picture.shape[0] // GRID
        self.places = _places(self.side)
        pixels = _cells(image, self.side)
        self.colours = (pixels[None] - _around(guide)[:, :, :, None]).square().sum(1)
        self.outside = torch.isinf(_around(torch.zeros(1, 1, *size), outside=-math.inf))[:, 0, :, None]
        self.fitted = self._fit(shrunk, pixels)

    def __call__(self, coarse: np.ndarray) -> np.ndarray:
        """Enlarge a map (24, 24), float32."""
        with torch.no_grad():
            found = self._enlarge(self.fitted, torch.from_numpy(coarse)[None, None])[0]
        return found.reshape(GRID, GRID, self.side, self.side).permute(0, 2, 1, 3).flatten(0, 1).flatten(1).numpy()

    def _fit(self, shrunk: Tensor, pixels: Tensor) -> Tensor:
        start = torch.tensor([math.log(PLANE), math.log(PLANE), 0.0, math.log(COLOUR)])
        numbers = start[None, :, None, None].repeat(1, 1, GRID, GRID).requires_grad_()
        descent = torch.optim.Adam([numbers], lr=RATE)
        for _ in range(STEPS):
            descent.zero_grad()
            loss = (self._enlarge(numbers, shrunk) - pixels).abs().mean()
            loss.backward()
            descent.step()
        return numbers.detach()

    def _enlarge(self, numbers: Tensor, coarse: Tensor) -> Tensor:
        """Means of the cells around, (channel, cell, pixel of the cell), of (1, channel, 24, 24)."""
        wide, tall, turn, colour = _around(numbers).unbind(1)
        across, down, angle = (-2 * wide).exp(), (-2 * tall).exp(), math.pi * turn.tanh()
        cos, sin = angle.cos(), angle.sin()
        x, y = self.places
        scores = (cos**2 * across + sin**2 * down)[:, :, None] * x**2
        scores = scores + (sin**2 * across + cos**2 * down)[:, :, None] * y**2
        scores = scores + (2 * cos * sin * (across - down))[:, :, None] * (x * y)
        scores = scores + (-2 * colour).exp()[:, :, None] * self.colours
        weights = torch.softmax((-scores / 2).masked_fill(self.outside, -math.inf), 0)
        return torch.einsum("kcp,kdc->dcp", weights, _around(coarse))


def _around(cells: Tensor, outside: float = 0.0) -> Tensor:
    """The cells around each cell, (neighbour, channel, cell), of (1, channel, 24, 24)."""
    width = 2 * REACH + 1
    padded = F.pad(cells, (REACH,) * 4, value=outside)
    return padded.unfold(2, width, 1).unfold(3, width, 1)[0].permute(3, 4, 0, 1, 2).flatten(3).flatten(0, 1)


def _cells(image: Tensor, side: int) -> Tensor:
    """The pixels of each cell, (channel, cell, pixel)."""
    return image[0].reshape(-1, GRID, side, GRID, side).permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)


def _places(side: int) -> tuple[Tensor, Tensor]:
    """Pixels across and down to each pixel of a cell from the middles of those around: (neighbour, 1, pixel)."""
    away = torch.arange(-REACH, REACH + 1.0) * side
    inside = torch.arange(side) + 0.5 - side / 2
    steps = inside - away[:, None]
    width = 2 * REACH + 1
    down = steps[:, None, :, None].expand(width, width, side, side).reshape(width**2, 1, -1)
    across = steps[None, :, None, :].expand(width, width, side, side).reshape(width**2, 1, -1)
    return across, down
