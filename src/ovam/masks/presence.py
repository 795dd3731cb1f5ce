"""Presence: is a word there at all? A probability from its map before calibration."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.defaults import CHOSEN
from ovam.maps.result import AttentionMaps

_STRONGEST = 0.02  # share of the pixels that a small thing covers
_LEAST = 1e-6  # log-odds of 0 and 1 are not finite
_SCALE, _OFFSET = CHOSEN["presence"]["scale"], CHOSEN["presence"]["offset"]


def presences(maps: AttentionMaps) -> dict[str, float]:
    """Return how likely each word is in the picture, in [0, 1]; 0.5 is the border.

    It is made from the word's strongest 2 % of pixels: their mean log-odds against the rest of the attribution prompt,
    which counts as background. A scale and an offset, chosen on validation scenes, turn it into a probability. The map
    is not stretched by its own maximum, so presence means the same on all pictures of one model. It is
    computed from the maps before any refinement, as scale and offset were chosen for those.
    """
    plain = maps if maps.plain is None else maps.plain
    found = {word: evidence(plain[i], len(plain.spans[i].tokens)) for i, word in enumerate(maps.words)}
    return {word: 1 / (1 + math.exp(-_SCALE * level - _OFFSET)) for word, level in found.items()}


def evidence(word_map: Float[Tensor, "height width"], tokens: int = 1) -> float:
    """Return the mean log-odds of the strongest 2 % of a map in [0, 1].

    Args:
        word_map: Map of a word before calibration.
        tokens: Number of the word's tokens. More tokens get more attention in any picture; this is
            corrected.
    """
    strongest = max(1, int(_STRONGEST * word_map.numel()))
    shares = word_map.flatten().topk(strongest).values.clamp(_LEAST, 1 - _LEAST)
    return float(torch.logit(shares).mean() - torch.tensor(float(tokens)).log())
