"""Presence: the probability that a word is in the picture at all, from the word's map before calibration."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.defaults import CHOSEN
from ovam.maps.result import AttentionMaps
from ovam.maps.thresholds import BORDER, Thresholds, moved

_STRONGEST = 0.02
"""The mean is taken over this share of the pixels, those with the highest values; a small thing covers about 2 % of a
picture."""
_LEAST = 1e-6  # values are clamped this far from 0 and 1, where log-odds are infinite
_SCALE, _OFFSET = CHOSEN["presence"]["scale"], CHOSEN["presence"]["offset"]


def presences(maps: AttentionMaps) -> dict[str, float]:
    """Return for each word the probability, in [0, 1], that the picture shows it; below 0.5 it is probably absent.

    At a pixel, the value of the map is the word's part of the attention; all other attention goes to the other tokens
    of the attribution prompt. The log-odds of the values are averaged over the 2 % of the pixels that have the highest
    values, and corrected for the word's number of tokens (`evidence`). A scale and an offset, which were chosen on
    validation scenes, turn the result into a probability.

    The map is not stretched, although masks use stretched maps (`ovam.maps.calibration`): a stretched map reaches 1 in
    every picture, also in a picture that does not show the word. Raw values are usually lower there. Presence is
    computed from the maps before refinement (`AttentionMaps.plain`), because the scale and the offset were chosen for
    such maps.

    If an optimised token has a presence threshold of its own, its presence is moved so that this threshold lies at 0.5.

    If the maps have word gains, presence is computed from the gains instead (`WordGains.presence`), also for optimised
    tokens; their own thresholds of presence were chosen for maps and change nothing then.
    """
    plain = maps if maps.plain is None else maps.plain
    if plain.gains is not None:
        return {word: plain.gains.presence(word) for word in maps.words}
    found = {word: evidence(plain[i], len(plain.spans[i].tokens)) for i, word in enumerate(maps.words)}
    shares = {word: 1 / (1 + math.exp(-_SCALE * level - _OFFSET)) for word, level in found.items()}
    thresholds = {word: plain.thresholds.get(word, Thresholds()).presence for word in shares}
    return {
        word: float(moved(torch.tensor(share), thresholds[word])) if thresholds[word] else share
        for word, share in shares.items()
    }


def absent(maps: AttentionMaps, found: Mapping[str, float], least: float | None) -> frozenset[str]:
    """Return the words that count as absent.

    Args:
        maps: Maps of the words.
        found: Presence of each word, as `presences` returns it.
        least: A word with a smaller presence than this is absent. With None, only optimised tokens with a presence
            threshold can be absent: such a token is absent if its presence, which `presences` has moved, is below 0.5.
    """
    if least is not None:
        return frozenset(word for word, presence in found.items() if presence < least)
    gated = {word for word, thresholds in maps.thresholds.items() if thresholds.presence is not None}
    return frozenset(word for word, presence in found.items() if word in gated and presence < BORDER)


def evidence(word_map: Float[Tensor, "height width"], tokens: int = 1) -> float:
    """Return the mean log-odds of the strongest 2 % of a map in [0, 1].

    Args:
        word_map: Map of a word before calibration.
        tokens: Number of the word's tokens. In any picture, a word gets more attention if it has more tokens; the
            result is corrected for this.
    """
    strongest = max(1, int(_STRONGEST * word_map.numel()))
    shares = word_map.flatten().topk(strongest).values.clamp(_LEAST, 1 - _LEAST)
    return float(torch.logit(shares).mean() - torch.tensor(float(tokens)).log())
