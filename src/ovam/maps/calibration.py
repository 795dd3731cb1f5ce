"""Calibration: turn a map into a score in [0, 1], which can be compared with a threshold and with other scores.

The values of a raw map depend on the image and on the other tokens of its attribution prompt (the text for which maps
are made). So the values of two raw maps can't be compared. A word's map is stretched to [0, 1]. An optimised token has
two more numbers, which turn its stretched map into a score; a score above 0.5 says that the pixel belongs to the class.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.shapes import Map

KIND = "stretched logit"
"""Name of this kind of calibration in files; a reader refuses other kinds."""
_ROUNDING = 1e-5  # if the values of a map differ by less than this share of the largest one, it is only rounding


@dataclass(frozen=True)
class Calibration:
    """Turns a stretched map into a score: `sigmoid(scale * stretched + offset)`.

    The two numbers were found when the optimised token was fitted, so that the score of a pixel of the class is above
    0.5.

    Attributes:
        scale: Steepness of the score; positive.
        offset: Log-odds of the class where the stretched map is 0.
    """

    scale: float
    offset: float

    def __call__(self, stretched_map: Map) -> Map:
        """Return the scores, in [0, 1], of a map that `ovam.masks.masks.scores_by` has stretched and resized."""
        return logits(stretched_map, self.scale, self.offset).sigmoid()


def stretched(maps: Float[Tensor, "*any height width"]) -> Float[Tensor, "*any height width"]:
    """Stretch each map to [0, 1] by its own minimum and maximum; a constant map becomes 0. It is differentiable."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    spread = high - low
    flat = spread <= _ROUNDING * high
    return torch.where(flat, torch.zeros_like(maps), (maps - low) / torch.where(flat, torch.ones_like(spread), spread))


def logits(stretched_map: Tensor, scale: Tensor | float, offset: Tensor | float) -> Tensor:
    """Return the log-odds of a class against the background, from its stretched map."""
    return scale * stretched_map + offset
