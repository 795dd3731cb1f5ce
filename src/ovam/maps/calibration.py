"""Calibration: turn a map into a score in [0, 1]. This is the only change of scale between map and mask.

The level of a raw map depends on the image and on the other tokens of its attribution prompt, so raw levels can't be
compared. A word's map is stretched to [0, 1]. A fitted token has two more numbers, which turn its stretched map into a
score with the border at 0.5.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.shapes import Map

KIND = "stretched logit"
"""Name of this kind of calibration in files; a reader refuses other kinds."""
_ROUNDING = 1e-5  # a spread below this share of the greatest value is float32 rounding, not a map


@dataclass(frozen=True)
class Calibration:
    """Two fitted numbers: the score is `sigmoid(scale * stretched + offset)`; 0.5 is the border that the fit found.

    Attributes:
        scale: Steepness; positive.
        offset: Log-odds where the stretched map is 0.
    """

    scale: float
    offset: float

    def __call__(self, stretched_map: Map) -> Map:
        """Return the scores in [0, 1] of a map that was first stretched at its own grid and then resized."""
        return logits(stretched_map, self.scale, self.offset).sigmoid()


def stretched(maps: Float[Tensor, "*any height width"]) -> Float[Tensor, "*any height width"]:
    """Stretch each map to [0, 1] by its own minimum and maximum; a constant map becomes 0. Differentiable."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    spread = high - low
    flat = spread <= _ROUNDING * high
    return torch.where(flat, torch.zeros_like(maps), (maps - low) / torch.where(flat, torch.ones_like(spread), spread))


def logits(stretched_map: Tensor, scale: Tensor | float, offset: Tensor | float) -> Tensor:
    """Return the log-odds of a class against the background, from its stretched map."""
    return scale * stretched_map + offset
