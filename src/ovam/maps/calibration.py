"""Calibration: turn a map into a score in [0, 1], which can be compared with a threshold and with other scores.

The values of a raw map depend on the image and on the other tokens of its attribution prompt (the text for which maps
are made). So one threshold does not fit the raw values of all maps. A map is therefore stretched to [0, 1]. Then two
numbers turn the stretched map into a score; a score above 0.5 says that the pixel belongs to the word or class. For an
optimised token the two numbers were found in its fit. All words share one pair of numbers for plain maps, and one for
refined maps. Both pairs were chosen on validation scenes (`ovam.masks.masks.WORD_CALIBRATIONS`).
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

    The two numbers were chosen so that pixels of the word or class get scores above 0.5: for an optimised token in its
    fit, for words on validation scenes.

    Attributes:
        scale: Steepness of the score; positive.
        offset: Log-odds of the word or class where the stretched map is 0.
    """

    scale: float
    offset: float

    def __call__(self, stretched_map: Map) -> Map:
        """Return the scores, in [0, 1], of a map that `ovam.masks.masks.scores_by` has stretched and resized."""
        return logits(stretched_map, self.scale, self.offset).sigmoid()


def stretched(maps: Float[Tensor, "*any height width"]) -> Float[Tensor, "*any height width"]:
    """Stretch each map to [0, 1] by its own minimum and maximum; a constant map becomes 0. This is differentiable."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    spread = high - low
    flat = spread <= _ROUNDING * high
    return torch.where(flat, torch.zeros_like(maps), (maps - low) / torch.where(flat, torch.ones_like(spread), spread))


def logits(stretched_map: Tensor, scale: Tensor | float, offset: Tensor | float) -> Tensor:
    """Return the log-odds of a class against the background, from its stretched map."""
    return scale * stretched_map + offset
