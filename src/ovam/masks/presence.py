"""Presence: the probability that a word is in the picture at all, from the word's map before calibration."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ovam.defaults import CHOSEN
from ovam.maps.result import AttentionMaps
from ovam.maps.thresholds import BORDER, Thresholds, moved

_STRONGEST = 0.02  # share of the pixels whose mean counts, the highest ones: a small thing covers about as many
_LEAST = 1e-6  # values are clamped this far from 0 and 1, where log-odds are infinite
_SCALE, _OFFSET = CHOSEN["presence"]["scale"], CHOSEN["presence"]["offset"]


def presences(maps: AttentionMaps) -> dict[str, float]:
    """Return for each word the probability, in [0, 1], that the picture shows it; below 0.5 it is probably absent.

    At a pixel, the value of the map is the word's part of the attention; all other attention goes to the other tokens
    of the attribution prompt. The log-odds of the values are averaged over the 2 % of the pixels that have the highest
    values, and corrected for the word's number of tokens (`evidence`). A scale and an offset, which were chosen on
    validation scenes, turn the result into a probability. The map is not stretched by its own maximum, so the same
    presence means the same in all pictures of one model. Presence is computed from the maps before refinement
    (`AttentionMaps.plain`), because the scale and the offset were chosen for such maps.

    If an optimised token has a presence threshold of its own, its presence is moved so that this threshold lies at 0.5.
    """
    plain = maps if maps.plain is None else maps.plain
    found = {word: evidence(plain[i], len(plain.spans[i].tokens)) for i, word in enumerate(maps.words)}
    shares = {word: 1 / (1 + math.exp(-_SCALE * level - _OFFSET)) for word, level in found.items()}
    own = {word: plain.thresholds.get(word, Thresholds()).presence for word in shares}
    return {
        word: float(moved(torch.tensor(share), own[word])) if own[word] else share for word, share in shares.items()
    }


def absent(maps: AttentionMaps, found: Mapping[str, float], least: float | None) -> frozenset[str]:
    """Return the words that count as absent.

    Args:
        maps: Maps of the words.
        found: Presence of each word, as `presences` returns it.
        least: Minimum presence of all words. With None only optimised tokens with a presence threshold can be absent.
    """
    if least is not None:
        return frozenset(word for word, presence in found.items() if presence < least)
    gated = {word for word, own in maps.thresholds.items() if own.presence is not None}
    return frozenset(word for word, presence in found.items() if word in gated and presence < BORDER)


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
