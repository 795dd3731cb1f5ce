"""From a map to a score, the one change of scale on the way to a mask, and the only place where it is written.

A raw map's level depends on the other tokens of its attribution prompt and on the image, so that levels can't be
compared as they are. A word's map is stretched to [0, 1]; a fitted token brings two numbers that say how its stretched
map becomes a score whose border is 0.5.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.shapes import Map

KIND = "stretched logit"
"""The kind of calibration that files name; a reader refuses others."""
_ROUNDING = 1e-5  # a spread below this share of the greatest value is float32 rounding, not a map


@dataclass(frozen=True)
class Calibration:
    """Fitted numbers: the score is `sigmoid(scale * stretched + offset)`, and 0.5 the border that the fit found.

    Attributes:
        scale: Steepness; positive.
        offset: Log-odds where the stretched map is 0.
    """

    scale: float
    offset: float

    def __call__(self, stretched_map: Map) -> Map:
        """Scores in [0, 1] of a map that was stretched at its own grid, and resized then."""
        return logits(stretched_map, self.scale, self.offset).sigmoid()


def stretched(maps: Float[Tensor, "*any height width"]) -> Float[Tensor, "*any height width"]:
    """Bring each map to [0, 1] by its own least and greatest value; a constant map becomes 0. Differentiable."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    spread = high - low
    flat = spread <= _ROUNDING * high
    return torch.where(flat, torch.zeros_like(maps), (maps - low) / torch.where(flat, torch.ones_like(spread), spread))


def logits(stretched_map: Tensor, scale: Tensor | float, offset: Tensor | float) -> Tensor:
    """Log-odds of a class against the background, from its stretched map."""
    return scale * stretched_map + offset
