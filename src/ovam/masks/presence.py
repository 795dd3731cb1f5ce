"""Presence: the probability that a word is in the picture at all, from the word's map before calibration."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.defaults import CHOSEN
from ovam.maps.result import AttentionMaps

_STRONGEST = 0.02  # share of the pixels that a small thing covers
_LEAST = 1e-6  # values are clamped this far from 0 and 1, where log-odds are infinite
_SCALE, _OFFSET = CHOSEN["presence"]["scale"], CHOSEN["presence"]["offset"]


def presences(maps: AttentionMaps) -> dict[str, float]:
    """Return for each word the probability, in [0, 1], that the picture shows it; below 0.5 it is probably absent.

    At a pixel, the value of the map is the word's part of the attention; all other attention goes to the other tokens
    of the attribution prompt. The 2 % of the pixels with the highest values are taken, and the mean of the log-odds of
    these values. A scale and an offset, which were chosen on validation scenes, turn this mean into a probability.
    The map is not stretched by its own maximum, so the same
    presence means the same in all pictures of one model. Presence is computed from the maps before refinement
    (`AttentionMaps.plain`), because the scale and the offset were chosen for such maps.
    """
    plain = maps if maps.plain is None else maps.plain
    found = {word: evidence(plain[i], len(plain.spans[i].tokens)) for i, word in enumerate(maps.words)}
    return {word: 1 / (1 + math.exp(-_SCALE * level - _OFFSET)) for word, level in found.items()}


def evidence(word_map: Float[Tensor, "height width"], tokens: int = 1) -> float:
    """Return the mean log-odds of the strongest 2 % of a map in [0, 1].

    Args:
        word_map: Map of a word before calibration.
        tokens: Number of the word's tokens. A word of more tokens gets more attention in any picture; the result is
            corrected for this.
    """
    strongest = max(1, int(_STRONGEST * word_map.numel()))
    shares = word_map.flatten().topk(strongest).values.clamp(_LEAST, 1 - _LEAST)
    return float(torch.logit(shares).mean() - torch.tensor(float(tokens)).log())
